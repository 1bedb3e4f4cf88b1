"""Nouns, errors, filters, money, deadline, the evidence record and the ports that two stages share."""
