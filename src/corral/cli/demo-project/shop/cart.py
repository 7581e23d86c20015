"""What is in the cart, and what it costs."""

from shop.shipping import shipping


class Cart:
    def __init__(self):
        self.items = []

    def add(self, name, price, count=1):
        self.items.append((name, price, count))

    def subtotal(self):
        return sum(price * count for name, price, count in self.items)

    def total(self):
        return self.subtotal() - shipping(self.subtotal())
