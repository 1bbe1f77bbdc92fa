"""Pairs of rows and columns whose values sum up to the most.

Shortest augmenting paths, row by row (Crouse, On implementing 2D rectangular assignment algorithms, IEEE Transactions
on Aerospace and Electronic Systems, 2016). Of equally good assignments it takes the one that
scipy.optimize.linear_sum_assignment takes: two detections of one box, or two tracks in one place, are such ties, and
whoever breaks them otherwise makes other tracks. That is why it is here and no library's: the small ones break ties in
ways of their own, and SciPy is larger than all else that deciding tracks needs.

Legend: n rows, m columns.
"""

from __future__ import annotations

import math

import numpy as np

FEW_COLUMNS = 32  # up to here plain numbers are faster than arrays, ten times where a camera has five tracks


def assign(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows, ascending, and their columns, int64 (min(n, m),) each, of finite `values` (n, m)."""
    is_tall = values.shape[0] > values.shape[1]
    cost = -np.asarray(values.T if is_tall else values, np.float64)
    is_small = cost.shape[1] <= FEW_COLUMNS
    columns = np.array(_columns_of_few_rows(cost.tolist()), np.int64) if is_small else _columns_of_rows(cost)
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


def _columns_of_few_rows(cost: list[list[float]]) -> list[int]:
    """As `_columns_of_rows`, step by step and bit by bit, on plain numbers."""
    num_columns = len(cost[0]) if cost else 0
    row_price, column_price = [0.0] * len(cost), [0.0] * num_columns
    column_of, row_of = [-1] * len(cost), [-1] * num_columns
    for first in range(len(cost)):
        reached, came_from = [math.inf] * num_columns, [-1] * num_columns
        left = list(range(num_columns))[::-1]
        settled, rows = [], [first]
        row, length = first, 0.0
        while True:
            of_row, price, least, place = cost[row], row_price[row], math.inf, -1
            for index, column in enumerate(left):
                through = length + of_row[column] - price - column_price[column]
                if through < reached[column]:
                    reached[column], came_from[column] = through, row
                if reached[column] < least or (reached[column] == least and row_of[column] < 0):  # as `_nearest`
                    least, place = reached[column], index
            column, length = left[place], least
            settled.append(column)
            left[place] = left[-1]
            left.pop()
            if row_of[column] < 0:
                break
            row = row_of[column]
            rows.append(row)
        row_price[first] += length
        for row in rows[1:]:
            row_price[row] += length - reached[column_of[row]]
        for each in settled:
            column_price[each] -= length - reached[each]
        while True:  # turn the path round
            row = came_from[column]
            row_of[column] = row
            column_of[row], column = column, column_of[row]
            if row == first:
                break
    return column_of


def _nearest(reached: np.ndarray, row_of: np.ndarray) -> int:
    """Where the least is: the last of equals that nobody has yet, for a path ends there, else the first."""
    equals = np.flatnonzero(reached == reached.min())
    free = equals[row_of[equals] < 0]
    return int(free[-1] if len(free) else equals[0])
