package target

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"signalbox"
	"signalbox/internal/forward"
)

// A guard dials for the transports, and lets nobody who sets a forwarder through the API use the
// hub as a way into networks that he cannot reach himself. The address is checked when its socket
// is about to connect, after names were resolved: a name that answers differently the second time
// gains nothing. Proxies of the environment are not used.
type guard struct {
	trusted bool // the configuration file set the target: every address is allowed
	allow   []netip.Prefix
	timeout time.Duration
	// resolver is the system's when nil.
	resolver *net.Resolver
}

// defaultTimeout is how long connecting, and each answer or write, may take.
const defaultTimeout = 10 * time.Second

func newGuard(spec *forward.Spec, trusted bool, allow []netip.Prefix) *guard {
	return &guard{trusted: trusted, allow: allow, timeout: timeoutOf(spec)}
}

// timeoutOf is how long spec lets connecting, and each answer or write, take.
func timeoutOf(spec *forward.Spec) time.Duration {
	if spec.Timeout > 0 {
		return spec.Timeout
	}
	return defaultTimeout
}

// DialContext connects to address, which is host:port, within the guard's timeout. network is tcp or
// udp, with or without 4 or 6. An address that is not allowed is a signalbox.Error of KindForbidden
// which wraps forward.ErrTarget. Of a name with several addresses those allowed are tried.
func (g *guard) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	switch network {
	case "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6":
	default:
		return nil, fmt.Errorf("a forwarder cannot dial the network %q; tcp and udp are possible", network)
	}
	dialer := net.Dialer{
		Timeout:  g.timeout,
		Resolver: g.resolver,
		KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 4,
		},
		ControlContext: func(_ context.Context, _, resolved string, _ syscall.RawConn) error {
			return g.permit(address, resolved)
		},
	}
	conn, err := dialer.DialContext(ctx, network, address)
	if err == nil {
		return conn, nil
	}
	// What net says around the refusal repeats the address only.
	if refused, is := errors.AsType[*signalbox.Error](err); is {
		return nil, refused
	}
	return nil, err
}

// dialPaced is DialContext for what a library reads, who reads no faster than a pacedReader does.
func (g *guard) dialPaced(ctx context.Context, network, address string) (*pacedConn, error) {
	conn, err := g.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return newPacedConn(conn), nil
}

// permit reports whether the socket may connect to resolved (address:port), where target leads.
func (g *guard) permit(target, resolved string) error {
	if g.trusted {
		return nil
	}
	to, err := netip.ParseAddrPort(resolved)
	if err != nil { // "" or ":80": this computer
		return notAllowed(fmt.Sprintf("%q is no address", resolved), target, err)
	}
	return g.permitAddr(target, to.Addr())
}

func (g *guard) permitAddr(target string, a netip.Addr) error {
	if g.trusted {
		return nil
	}
	a = a.WithZone("").Unmap()
	if g.allows(a) {
		return nil
	}
	if why := inner(a); why != "" {
		return notAllowed(fmt.Sprintf("%s is %s", a, why), target, forward.ErrTarget)
	}
	for _, v4 := range embedded(a) {
		if why := inner(v4); why != "" && !g.allows(v4) {
			return notAllowed(fmt.Sprintf("%s leads to %s, which is %s", a, v4, why), target, forward.ErrTarget)
		}
	}
	return nil
}

func (g *guard) allows(a netip.Addr) bool {
	return slices.ContainsFunc(g.allow, func(p netip.Prefix) bool { return signalbox.Network(p).Contains(a) })
}

// permitListen reports whether a forwarder may open a port for the computers of these networks. Who
// sets one through the API opens it to loopback, and to networks that forward.allow lists, alone:
// a port of the hub's machine is more than a way out of it.
func (g *guard) permitListen(target string, from []netip.Prefix) error {
	if g.trusted {
		return nil
	}
	for _, network := range from {
		network = signalbox.Network(network)
		within := func(p netip.Prefix) bool {
			p = signalbox.Network(p)
			return p.Bits() <= network.Bits() && p.Contains(network.Addr())
		}
		if !isLoopback(network) && !slices.ContainsFunc(g.allow, within) {
			return signalbox.Wrap(signalbox.KindForbidden, "target_not_allowed", forward.ErrTarget,
				"%s is not allowed for the computers of %s: a forwarder set through the API may be open to this machine, "+
					"and to networks listed in the setting forward.allow", target, network)
		}
	}
	return nil
}

// isLoopback reports whether a network is a part of loopback.
func isLoopback(p netip.Prefix) bool {
	p = signalbox.Network(p)
	return p.Addr().IsLoopback() && (p.Bits() >= 8 && p.Addr().Is4() || p.IsSingleIP())
}

// CheckLiteral checks the host of a URL when it is an address and no name, so that it can be
// answered as soon as the forwarder is set. Names are checked when they are dialled.
func (g *guard) CheckLiteral(host string) error {
	a, err := netip.ParseAddr(host)
	if err != nil {
		return nil //nolint:nilerr // a name
	}
	return g.permitAddr(host, a)
}

func notAllowed(what, target string, cause error) error {
	if !errors.Is(cause, forward.ErrTarget) {
		cause = errors.Join(forward.ErrTarget, cause)
	}
	return signalbox.Wrap(signalbox.KindForbidden, "target_not_allowed", cause,
		"the target %s is not allowed: %s; a forwarder set through the API may use public addresses, "+
			"and the networks listed in the setting forward.allow", target, what)
}

// inner says, in words, why an address is not one of the public Internet: "" when it is. It follows
// the IANA registries of special-purpose addresses (RFC 6890, and what came after it).
func inner(a netip.Addr) string {
	switch {
	case !a.IsValid():
		return "no address"
	case a.IsUnspecified():
		return "unspecified"
	case a.IsLoopback():
		return "loopback"
	case a.IsPrivate():
		return "private"
	case a.IsLinkLocalUnicast():
		return "link-local"
	case a.IsMulticast():
		return "multicast"
	}
	for _, n := range specialNetworks() {
		if n.prefix.Contains(a) {
			return n.words
		}
	}
	if a.Is6() && len(embedded(a)) == 0 && !netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20}), 3).Contains(a) {
		return "not of the public part of IPv6 (2000::/3)"
	}
	return ""
}

type specialNetwork struct {
	prefix netip.Prefix
	words  string
}

// specialNetworks are those that netip has no word for.
func specialNetworks() [6]specialNetwork {
	v4 := func(a, b, c byte, bits int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{a, b, c, 0}), bits)
	}
	return [...]specialNetwork{
		{v4(0, 0, 0, 8), "of this network (RFC 1122)"},
		{v4(100, 64, 0, 10), "shared by a carrier's customers (RFC 6598)"},
		{v4(192, 0, 0, 24), "reserved for protocols (RFC 6890)"},
		{v4(198, 18, 0, 15), "reserved for measurements (RFC 2544)"},
		{v4(240, 0, 0, 4), "reserved or broadcast (RFC 1112)"},
		// Translation in local use may lead to any IPv4 address, by rules of its own (RFC 8215).
		{netip.PrefixFrom(netip.AddrFrom16([16]byte{0x00, 0x64, 0xff, 0x9b, 0x00, 0x01}), 48), "a local translation to IPv4 (RFC 8215)"},
	}
}

// embedded are the IPv4 addresses to which an IPv6 address leads: NAT64 (RFC 6052), 6to4 (RFC 3056),
// Teredo (RFC 4380: server and client), IPv4-compatible (RFC 4291, 2.5.5.1). It is empty for others.
func embedded(a netip.Addr) []netip.Addr {
	if !a.Is6() {
		return nil
	}
	b := a.As16()
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte(b[i : i+4])) }
	switch {
	case [12]byte(b[:12]) == [12]byte{0x00, 0x64, 0xff, 0x9b}, // 64:ff9b::/96
		[12]byte(b[:12]) == [12]byte{}: // ::/96
		return []netip.Addr{at(12)}
	case b[0] == 0x20 && b[1] == 0x02: // 2002::/16
		return []netip.Addr{at(2)}
	case [4]byte(b[:4]) == [4]byte{0x20, 0x01}: // 2001::/32, the client's with its bits turned
		return []netip.Addr{at(4), netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]})}
	default:
		return nil
	}
}

// tlsConfig is how a server of spec is recognised, as serverName, and how the hub shows itself to
// it. The files are read here: a change of theirs counts from the next start of the forwarder.
func (g *guard) tlsConfig(spec *forward.Spec, serverName string) (*tls.Config, error) {
	t := spec.TLS
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: serverName}
	if t == (forward.TLS{}) {
		return config, nil
	}
	if !g.trusted {
		return nil, signalbox.Wrap(signalbox.KindForbidden, "tls_files_not_allowed", forward.ErrTarget,
			"files of TLS can be named by the configuration alone, not through the API")
	}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, tlsFault(err, "the file tls.ca cannot be read")
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, tlsFault(nil, "the file tls.ca, "+t.CA+", holds no certificate in PEM")
		}
	}
	if t.Cert == "" && t.Key == "" {
		return config, nil
	}
	if t.Cert == "" || t.Key == "" {
		return nil, tlsFault(nil, "tls.cert and tls.key go together; one of them is missing")
	}
	pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, tlsFault(err, "tls.cert and tls.key cannot be used")
	}
	config.Certificates = []tls.Certificate{pair}
	return config, nil
}

func tlsFault(cause error, words string) error {
	return signalbox.Wrap(signalbox.KindInvalid, "invalid_tls", errors.Join(forward.ErrTarget, cause), "%s", words)
}

// transport is for HTTP/1.1 through the guard, without proxies, and reads at a pace. Whoever made it closes its idle
// connections. config may be nil.
func (g *guard) transport(config *tls.Config) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := g.dialPaced(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return conn, nil
		},
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    g.timeout,
		ResponseHeaderTimeout:  g.timeout,
		MaxResponseHeaderBytes: 64 << 10,
		IdleConnTimeout:        time.Minute,
	}
}

// refuseRedirect is a http.Client's CheckRedirect: what is set is where messages go, not where
// somebody else points.
func refuseRedirect(next *http.Request, _ []*http.Request) error {
	to := *next.URL
	to.RawQuery, to.Fragment = "", "" // may hold secrets
	status := 0
	if next.Response != nil {
		status = next.Response.StatusCode
	}
	return fmt.Errorf("the receiver redirects (%d) to %s; redirects are not followed, "+
		"so set the forwarder to where the messages shall go", status, to.Redacted())
}
