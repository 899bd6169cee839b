// The image of a map that is under the pointer, large; arrow keys move it, too.
const show = (map, x, y) => {
  const image = map.querySelector("img"), lens = map.querySelector(".lens"), n = Number(map.dataset.steps);
  const at = value => Math.max(0, Math.min(n - 1, value));
  [x, y] = [at(x), at(y)];
  Object.assign(map.dataset, {x, y});
  lens.style.backgroundImage = `url("${image.src}")`;
  lens.style.backgroundSize = `${100 * n}%`;
  lens.style.backgroundPosition = `${100 * x / (n - 1)}% ${100 * y / (n - 1)}%`;
};
element.addEventListener("pointermove", event => {
  const image = event.target.closest(".map img");
  if (!image) return;
  const box = image.getBoundingClientRect(), n = Number(image.parentElement.dataset.steps);
  show(image.parentElement, Math.floor(n * (event.clientX - box.x) / box.width),
       Math.floor(n * (event.clientY - box.y) / box.height));
});
element.addEventListener("keydown", event => {
  const map = event.target.closest(".map");
  const [x, y] = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key] || [0, 0];
  if (!map || !(x || y)) return;
  event.preventDefault();
  show(map, Number(map.dataset.x || 0) + x, Number(map.dataset.y || 0) + y);
});
