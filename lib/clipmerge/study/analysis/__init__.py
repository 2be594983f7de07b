"""Looking inside ConDU (§5.4, Tables 5 and 6, Fig. 5, App. G–I). Begin with `rules`: its parts and alternatives."""
