"""Task unknown (paper §4.3, Tables 2 and 4, App. F): who answers an image, with what weight. Begin with `voting`."""
