import unittest

from shop.cart import Cart
from shop.shipping import shipping


class CartTest(unittest.TestCase):
    def test_subtotal_counts_every_item(self):
        cart = Cart()
        cart.add("tea", 4, count=3)
        cart.add("cup", 8)
        self.assertEqual(cart.subtotal(), 20)

    def test_total_is_subtotal_plus_shipping(self):
        cart = Cart()
        cart.add("tea", 4)
        self.assertEqual(cart.total(), 9)

    def test_large_orders_ship_for_free(self):
        cart = Cart()
        cart.add("pot", 60)
        self.assertEqual(cart.total(), 60)


class ShippingTest(unittest.TestCase):
    def test_shipping_is_free_from_50_upwards(self):
        self.assertEqual(shipping(49), 5)
        self.assertEqual(shipping(50), 0)


if __name__ == "__main__":
    unittest.main()
