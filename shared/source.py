"""Show a function's source in a notebook's output, so that the rendered notebook reads as one text."""

import inspect

from IPython.display import Markdown


def show_source(*objects) -> Markdown:
    """The source of functions or classes as one highlighted code block. Raises TypeError for anything else."""
    return Markdown("```python\n" + "\n\n".join(inspect.getsource(o).rstrip() for o in objects) + "\n```")
