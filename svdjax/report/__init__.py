"""Parts of pages: page, sections, tables, figures' style and panels, number formats."""
