package signalbox

import "net/netip"

// Network gives p in the one form in which networks are compared: without the bits of a host, and a
// network of IPv4-mapped IPv6 addresses (RFC 4291, section 2.5.5.2) as that of IPv4 which it means.
// Addresses are to be unmapped before they are looked for in it.
func Network(p netip.Prefix) netip.Prefix {
	const before = 96 // bits in front of the IPv4 address
	if p.Addr().Is4In6() && p.Bits() >= before {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-before)
	}
	return p.Masked()
}
