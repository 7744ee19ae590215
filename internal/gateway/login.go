package gateway

import (
	"bytes"
	"net/netip"
	"time"

	"signalbox"
	"signalbox/internal/auth"
	"signalbox/internal/registry"
)

// errUnauthorized is deliberately the same for an unknown name, a wrong secret and a
// disabled device.
var errUnauthorized = &signalbox.Error{Kind: signalbox.KindUnauthorized, Code: "unauthorized", Message: "The name or the secret is wrong, or the device is disabled."}

// credentials are what a client shows of itself.
type credentials struct {
	name, secret []byte
	// alone says that there was no place for the secret but the user name; whole that this did
	// not hold one, so that it may be the secret itself.
	alone, whole bool
}

// check tells whether name and secret are those of a device that may log in. A failure
// changes nothing but the counters of failures. version is that of the secret that was
// checked.
func (g *Gateway) check(who credentials, address netip.Addr) (d *registry.Device, version uint32, err *signalbox.Error) {
	now := time.Now()
	a := auth.Attempt{Name: who.name, Secret: who.secret, Address: address}
	d = g.Devices.FindBytes(who.name)
	if d != nil {
		version = d.SecretVersion()
		stored, allowed := d.Secret()
		a.Exists, a.Allowed, a.Kind, a.Sum = true, allowed, stored.Kind, stored.Sum
		a.Secrets = uint64(d.ID)<<32 | uint64(version)
		a.Seen = d.LastAddress() == address
	}
	outcome := g.Logins.Check(&a, now)
	switch outcome {
	case auth.LoginRight:
		return d, version, nil
	case auth.LoginDelayed:
		g.stats.LoginsDelayed.Add(1)
	case auth.LoginSpent:
		g.stats.LoginFailures.Add(1)
		g.cfg.Logger.Warn("somebody may be guessing a device's secret: too many different wrong ones came from one address, where it is now checked only now and then, right or wrong (devices.backoff.daily_guesses); «signalbox device rotate» gives the device a secret that cannot be guessed",
			"device", d.Name, "address", address)
	default:
		g.stats.LoginFailures.Add(1)
	}
	name, reason := who.name, reasonOfRefusal(&a, outcome)
	if !a.Exists && (who.mayBeSecret() || g.Devices.FindBytes(who.secret) != nil) { // or name and secret are swapped
		name = nil
	}
	if who.whole {
		reason = reasonNoPassword
	}
	g.said.refused(name, address, reason, now)
	return nil, 0, errUnauthorized
}

// mayBeSecret reports whether a name that no device has may be a secret, or part of one, which is
// not for the log. Firmware made for other servers sends its token as the user name, without a
// password.
func (c *credentials) mayBeSecret() bool {
	return c.alone || len(c.secret) == 0 || unlessSecret(c.name) == nil
}

// unlessSecret is a name that a client gave, nothing if it is or holds what looks like a secret.
func unlessSecret(name []byte) []byte {
	if auth.LooksGenerated(name) || bytes.IndexByte(name, ':') >= 0 {
		return nil
	}
	return name
}

// reasonOfRefusal is for the hub's own log; who was refused is not told.
func reasonOfRefusal(a *auth.Attempt, o auth.Outcome) string {
	switch {
	case o == auth.LoginDelayed:
		return "too_many_failures"
	case !a.Exists:
		return "unknown_device"
	case !a.Allowed:
		return "disabled"
	default:
		return "wrong_secret"
	}
}
