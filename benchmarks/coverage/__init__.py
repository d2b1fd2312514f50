"""Which networks of torchvision and timm convert, and whether what comes out is right."""
