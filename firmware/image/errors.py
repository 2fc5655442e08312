"""What can go wrong while an image is built. The person who reads it builds images: plain text says what to do."""


class ImageError(Exception):
    """The image cannot be built; the text says why and what to do."""


class RecipeError(ImageError):
    """The recipe is wrong; ``problems`` has all of it."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)
