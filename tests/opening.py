"""The picture that a page opens with, out of the way of a test."""

EMPTY = {
    "classifier": "no picture yet",
    "captioning": "Choose a picture first",
    "detection": "Choose a picture first",
    "segmentation": "Choose a picture first",
}


def open_empty(page, address: str, stem: str) -> None:
    """The page at the address, as a visitor has it who takes away the example that it opens with."""
    page.goto(address)
    page.locator(f"#{stem}-picture").get_by_role("button", name="Remove Image").click()
    page.locator(f"#{stem}-picture img").first.wait_for(state="hidden")
    page.get_by_text(EMPTY[stem]).first.wait_for()
