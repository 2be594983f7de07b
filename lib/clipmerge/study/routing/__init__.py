"""Task unknown (paper §4.3, Tables 2 and 4, App. F): rules of inference compared. Begin with `ensemble`."""
