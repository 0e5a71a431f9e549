"""One module a page of the book: its analysis, its tables, its figures and what it says of them."""
