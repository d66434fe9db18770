"""What the content of a picture file says of its coding: its parts, its pages, whether pixels were changed."""
