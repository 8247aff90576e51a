"""What every trainer follows alike: the budget, the schedule, the order of the data. No torch."""
