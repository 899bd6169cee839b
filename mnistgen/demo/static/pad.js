// A canvas to draw on; its value is what is on it, a PNG as a data URI, or "" where it is empty.
const canvas = () => element.querySelector("canvas"), pen = () => canvas().getContext("2d");
const empty = () => { pen().fillStyle = "#000"; pen().fillRect(0, 0, canvas().width, canvas().height); };
const show = url => {
  empty();
  if (!url) return;
  const image = new Image();
  image.onload = () => pen().drawImage(image, 0, 0, canvas().width, canvas().height);
  image.src = url;
};
let colour = element.querySelector("[data-colour]").dataset.colour, last = null;
const at = event => {
  const box = canvas().getBoundingClientRect();
  return [(event.clientX - box.x) * canvas().width / box.width, (event.clientY - box.y) * canvas().height / box.height];
};
const line = to => {
  Object.assign(pen(), {strokeStyle: colour, lineWidth: Number(canvas().dataset.wide), lineCap: "round"});
  pen().beginPath(); pen().moveTo(...last); pen().lineTo(...to); pen().stroke();
  last = to;
};
element.addEventListener("pointerdown", event => {
  if (event.target !== canvas()) return;
  event.preventDefault();
  canvas().setPointerCapture(event.pointerId);
  last = at(event);
  line([last[0] + 0.1, last[1]]);
});
element.addEventListener("pointermove", event => { if (last) line(at(event)); });
for (const end of ["pointerup", "pointercancel"]) element.addEventListener(end, () => {
  if (last) props.value = canvas().toDataURL();
  last = null;
});
element.addEventListener("click", event => {
  const button = event.target.closest("button");
  if (!button) return;
  if ("empty" in button.dataset) { empty(); props.value = ""; return; }
  colour = button.dataset.colour;
  for (const other of element.querySelectorAll("[data-colour]")) other.setAttribute("aria-pressed", other === button);
});
show(props.value);
watch("value", () => show(props.value));
