"""The families of methods. They do not know each other; `placecell.catalog` knows them all."""
