"""A person at the page: eyes, ten fingers, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from support.browser import Browser

CODES = {"Backspace": 8, "Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "PageDown": 34}
CODES |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
ALT, CONTROL, SHIFT = 1, 2, 8


@dataclass(frozen=True)
class Person:
    """Somebody who rates."""

    tab: Browser

    def open(self, address: str, *, width: int = 1280, height: int = 860, dark: bool = False) -> None:
        """Go to the page and wait until it shows something."""
        touch = width < 600
        self.tab.call("Page.navigate", url="about:blank")
        self.tab.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch
        )
        self.tab.call("Emulation.setTouchEmulationEnabled", enabled=touch)
        self.tab.prefer("dark" if dark else "light")
        self.tab.call("Page.navigate", url=address)
        self.tab.wait("document.readyState === 'complete'")
        self.tab.wait("['pair', 'end', 'trouble'].some((id) => document.getElementById(id)?.hidden === false)")

    def press(self, *keys: str, held: int = 0) -> None:
        """Press and release keys, one after the other."""
        for key in keys:
            code = CODES.get(key, ord(key.upper()) if len(key) == 1 else 0)
            facts = {
                "key": key,
                "code": f"Key{key.upper()}" if len(key) == 1 and key.isalpha() else "",
                "modifiers": held,
                "windowsVirtualKeyCode": code,
            }
            text = "\r" if key == "Enter" else key if len(key) == 1 and not held & (ALT | CONTROL) else ""
            self.tab.call("Input.dispatchKeyEvent", type="keyDown", **facts, **({"text": text} if text else {}))
            self.tab.call("Input.dispatchKeyEvent", type="keyUp", **facts)

    def click(self, selector: str) -> None:
        """Press the mouse on the middle of an element."""
        box = self.tab.ask(
            f"(() => {{ const found = document.querySelector({selector!r}); found.scrollIntoView({{block: 'center'}});"
            " const {x, y, width, height} = found.getBoundingClientRect(); return [x + width / 2, y + height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.tab.call(
                "Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1, buttons=1
            )

    def reads(self, element: str) -> str:
        """The text of an element."""
        return str(self.tab.ask(f"document.getElementById({element!r}).textContent"))

    def sees(self, element: str) -> bool:
        """Whether an element is shown."""
        return bool(self.tab.ask(f"document.getElementById({element!r}).checkVisibility()"))

    def chosen(self, question: str) -> str:
        """What is chosen of a question with a row of choices."""
        return str(self.tab.ask(f"document.getElementById('form').elements[{question!r}].value"))

    def at(self) -> str:
        """Where the keyboard is: a question, or the id of an element."""
        return str(self.tab.ask("(document.activeElement.closest('fieldset') ?? document.activeElement).id"))

    def waits_for(self, count: str) -> None:
        """Wait until the head says this, e.g. "Pair 2 of 5"."""
        self.tab.wait(f"document.getElementById('count')?.textContent === {count!r}")

    def answers(self) -> tuple[str, str]:
        """What stands under A and B."""
        return self.reads("a"), self.reads("b")

    def asks(self, expression: str) -> Any:
        """The value of an expression on the page."""
        return self.tab.ask(expression)
