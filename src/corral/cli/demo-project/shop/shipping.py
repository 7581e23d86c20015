"""What sending a parcel costs."""

COST = 5
FREE_FROM = 50


def shipping(subtotal):
    if subtotal > FREE_FROM:
        return 0
    return COST
