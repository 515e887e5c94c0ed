"""The kit of which pages are made: page, tables' cells, panels, style, numbers in words."""
