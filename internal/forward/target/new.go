package target

import (
	"log/slog"
	"net"
	"net/netip"
	"net/url"

	"signalbox"
	"signalbox/internal/forward"
)

// New makes the target that spec.To names; it does not connect. trusted says that the
// configuration file set it: any address may be used. Otherwise an address that is not public is
// refused unless allow lists it: here when To says it in digits, at Open when a name leads to it; and
// a listener may be open to loopback and to networks of allow alone.
// source names this hub to receivers of CloudEvents: a URI reference, as /signalbox/<instance>.
// Errors are of KindInvalid or KindForbidden, and wrap forward.ErrTarget.
func New(spec *forward.Spec, trusted bool, allow []netip.Prefix, source string, logger *slog.Logger) (forward.Target, error) {
	to, err := url.Parse(spec.To)
	if err != nil {
		// What url.Parse says repeats the address, which may hold a secret.
		return nil, badTarget("the address of the target cannot be read; write scheme://host:port")
	}
	logger = logger.With("forwarder", spec.Name)
	g := newGuard(spec, trusted, allow)
	if to.Scheme != "tcp-listen" {
		if to.Hostname() == "" {
			return nil, badTarget("the target %s names no host; write scheme://host:port", forward.ShownURL(spec.To))
		}
		if err := g.CheckLiteral(to.Hostname()); err != nil {
			return nil, err
		}
	}
	switch to.Scheme {
	case "tcp":
		return newTCP(spec, g, logger)
	case "tcp-listen":
		return newListen(spec, g, logger)
	case "udp":
		return newUDP(spec, g, logger)
	case "ws", "wss":
		return newWebSocket(spec, g, logger)
	case "http", "https":
		return newWebhook(spec, g, source, logger)
	case "mqtt", "mqtts":
		return newMQTT(spec, g, logger)
	default:
		return nil, badTarget("the target %s has the scheme %q; tcp, tcp-listen, udp, ws, wss, http, https, mqtt and mqtts are possible",
			forward.ShownURL(spec.To), to.Scheme)
	}
}

func badTarget(format string, args ...any) error {
	return signalbox.Wrap(signalbox.KindInvalid, "invalid_target", forward.ErrTarget, format, args...)
}

// hostPort gives host:port of a target that is nothing else. MQTT's ports are those registered.
func hostPort(spec *forward.Spec) (string, error) {
	to, err := url.Parse(spec.To)
	if err != nil {
		return "", badTarget("the address of the target cannot be read; write scheme://host:port")
	}
	port := to.Port()
	switch {
	case port != "":
	case to.Scheme == "mqtt":
		port = "1883"
	case to.Scheme == "mqtts":
		port = "8883"
	default:
		return "", badTarget("the target %s names no port; write %s://host:port", forward.ShownURL(spec.To), to.Scheme)
	}
	if to.User != nil || to.RawQuery != "" || to.Fragment != "" || (to.Path != "" && to.Path != "/") {
		return "", badTarget("the target %s says more than host and port; write %s://host:port", forward.ShownURL(spec.To), to.Scheme)
	}
	return net.JoinHostPort(to.Hostname(), port), nil
}
