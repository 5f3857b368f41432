"""From the columns of a file to the fields of a customer: what is meant, guessed where nobody says, and carried out.

A target is the path of a field: `names.full`, `phones[1].number`, `birthday`, `attributes.plan`. Without an index the
first item of a list is meant; lists of texts take several in one cell, with semicolons between.
"""

from customer.rules.mapping.puts import one_cell
from customer.rules.mapping.rows import Plan, Said, by_column, change, plan, said
from customer.rules.mapping.targets import LEFT_OUT, NUMBER, Attributes, check, guess, of_keys

__all__ = [
    "LEFT_OUT",
    "NUMBER",
    "Attributes",
    "Plan",
    "Said",
    "by_column",
    "change",
    "check",
    "guess",
    "of_keys",
    "one_cell",
    "plan",
    "said",
]
