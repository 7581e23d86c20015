"""What sending a parcel costs."""


def shipping(subtotal):
    if subtotal >= 50:
        return 0
    return 5
