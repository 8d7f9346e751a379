"""The reference bank: the folder of annotated cases that the user keeps, and the search in it."""
