"""Pairs of rows and columns whose values sum up to the most.

Shortest augmenting paths, row by row (Crouse, On implementing 2D rectangular assignment algorithms, IEEE Transactions
on Aerospace and Electronic Systems, 2016). Of equally good assignments it takes the one that
scipy.optimize.linear_sum_assignment takes: two detections of one box, or two tracks in one place, are such ties, and
whoever breaks them otherwise makes other tracks. That is why it is here and no library's: the small ones break ties in
ways of their own, and SciPy is larger than all else that deciding tracks needs.

Legend: n rows, m columns.
"""

from __future__ import annotations

import numpy as np


def assign(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows, ascending, and their columns, int64 (min(n, m),) each, of finite `values` (n, m)."""
    is_tall = values.shape[0] > values.shape[1]
    cost = -np.asarray(values.T if is_tall else values, np.float64)
    columns = _columns_of_rows(cost)
    rows = np.arange(len(columns))
    if not is_tall:
        return rows, columns
    order = np.argsort(columns)
    return columns[order], rows[order]


def _columns_of_rows(cost: np.ndarray) -> np.ndarray:
    """The column of each row (n,) of least total cost (n, m), n <= m."""
    num_rows, num_columns = cost.shape
    row_price, column_price = np.zeros(num_rows), np.zeros(num_columns)
    column_of, row_of = np.full(num_rows, -1), np.full(num_columns, -1)
    for first in range(num_rows):
        reached, came_from = np.full(num_columns, np.inf), np.full(num_columns, -1)
        left = np.arange(num_columns)[::-1].copy()  # columns that are not settled; their order decides ties
        num_left, settled, rows = num_columns, [], [first]
        row, length = first, 0.0
        while True:
            open_columns = left[:num_left]
            lengths = length + cost[row, open_columns] - row_price[row] - column_price[open_columns]
            shorter = lengths < reached[open_columns]
            better = open_columns[shorter]
            reached[better], came_from[better] = lengths[shorter], row
            place = _nearest(reached[open_columns], row_of[open_columns])
            column = int(open_columns[place])
            length = float(reached[column])
            settled.append(column)
            num_left -= 1
            left[place] = left[num_left]
            if row_of[column] < 0:
                break
            row = int(row_of[column])
            rows.append(row)
        row_price[first] += length
        row_price[rows[1:]] += length - reached[column_of[rows[1:]]]
        column_price[settled] -= length - reached[settled]
        while True:  # turn the path round: what was on it takes the next
            row = int(came_from[column])
            row_of[column] = row
            column_of[row], column = column, int(column_of[row])
            if row == first:
                break
    return column_of


def _nearest(reached: np.ndarray, row_of: np.ndarray) -> int:
    """Where the least is: the last of equals that nobody has yet, for a path ends there, else the first."""
    equals = np.flatnonzero(reached == reached.min())
    free = equals[row_of[equals] < 0]
    return int(free[-1] if len(free) else equals[0])
