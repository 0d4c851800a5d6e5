"""WHAT THE BROWSER LOADS: the page, its scripts and styles, and how they are answered; no framework, no data."""
