"""The demo in the browser: models to draw with, to complete digits, to explore, and evaluators to read and to score.

What each tab does is a plain function of `drawing`, `completing`, `exploring`, `reading` and `scores`; `page` puts them
on a page, and `server` serves it. Those two alone need gradio, which the extra `demo` installs.
"""
