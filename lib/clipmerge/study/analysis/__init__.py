"""Looking inside (paper §5.4, Tables 5 and 6, Fig. 5, App. G–I): ablations, features, drift, triggers, costs."""
