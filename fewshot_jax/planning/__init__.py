"""How to compute a meta-gradient (`plan`), and readers of compiled programs: memory, products, collectives."""
