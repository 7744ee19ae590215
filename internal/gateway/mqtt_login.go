package gateway

import (
	"bytes"
	"crypto/rand"
	"net/http"
	"strconv"
	"time"

	"signalbox"
	"signalbox/internal/auth"
	"signalbox/internal/broker"
	"signalbox/internal/ingest"
	"signalbox/internal/registry"
	"signalbox/internal/session"
	"signalbox/internal/wire/packet"
)

// maxClientID bounds a client identifier, in bytes; the standard wants 23 at least (3.1.3-5).
const maxClientID = 256

// connect handles CONNECT; it comes again as long as wait > 0.
func (c *mqttConn) connect(p *packet.Packet) (wait time.Duration) {
	if !c.is(mqttAdmitted) {
		if reason, words := c.admit(p); reason != packet.Success {
			c.door.stats.LoginsRefused.Add(1)
			c.t.End(reason, words)
			return 0
		}
		c.set(mqttAdmitted)
	}
	if c.device != nil && !c.is(mqttAttached) {
		if wait := c.attach(); wait > 0 || !c.is(mqttAttached) {
			return wait
		}
	}
	return c.join(p)
}

// admit decides who the client is and whether it may come in.
func (c *mqttConn) admit(p *packet.Packet) (packet.Reason, string) {
	connect := &p.Connect
	address := c.address()
	if refusal := c.door.g.crowded(address); refusal != nil {
		if refusal.Status == http.StatusTooManyRequests {
			return packet.QuotaExceeded, refusal.Text
		}
		return packet.ServerBusy, refusal.Text
	}
	if p.Properties.Has(packet.AuthMethod) { // 5.0, 4.12.0-1
		return packet.BadAuthMethod, "no authentication method is supported; use user name and password"
	}
	switch {
	case len(connect.ClientID) == 0 && connect.Version == packet.V311 && !connect.Clean: // 3.1.1, 3.1.3-8
		return packet.ClientIDNotValid, "an empty client identifier needs a clean session"
	case len(connect.ClientID) > maxClientID: // 3.1.3-5
		return packet.ClientIDNotValid, "the client identifier has more than 256 bytes"
	}
	if reason, words := c.authenticate(connect); reason != packet.Success {
		return reason, words
	}
	if connect.HasWill && !c.mayWill(connect.WillTopic) {
		c.door.stats.WillsRefused.Add(1)
		return packet.NotAuthorized, "the will's topic is none that this client may publish to"
	}
	return packet.Success, ""
}

// authenticate finds out who the client is.
func (c *mqttConn) authenticate(connect *packet.Connect) (packet.Reason, string) {
	g, address := c.door.g, c.address()
	secret := tokenOf(connect)
	switch {
	case secret != "":
		who, err := c.door.parts.Tokens.AuthenticateToken(secret)
		if err != nil {
			g.stats.LoginFailures.Add(1)
			g.said.refused(unlessSecret(connect.User), address, "wrong_token", time.Now())
			return packet.BadUserOrPassword, "the token is unknown, has expired or was revoked"
		}
		c.guest = &mqttGuest{owner: "t" + strconv.FormatInt(who.ID, 10), name: who.Name, scope: who.Scope, secret: secret}
		c.door.stats.Programs.Add(1)
	case connect.HasUser:
		d, version, err := g.check(credentialsOf(connect), address)
		if err != nil {
			return packet.BadUserOrPassword, err.Message
		}
		c.device, c.version = d, version
		c.door.stats.Devices.Add(1)
	case c.t.Guest():
		// A page of any site can come here by a name that resolves to the hub: its origin is the
		// port's own then. What it cannot have is a password.
		g.stats.OriginRefused.Add(1)
		g.said.refused(nil, address, "anonymous_page", time.Now())
		return packet.NotAuthorized, "a web page needs a user name and a password here, or its origin in devices.origins"
	case len(c.door.cfg.Anonymous) > 0:
		c.guest = &mqttGuest{owner: "a" + address.String()}
		c.door.stats.Anonymous.Add(1)
	default:
		g.stats.AuthRequired.Add(1)
		g.said.refused(nil, address, "anonymous", time.Now())
		return packet.NotAuthorized, "a user name and a password are needed"
	}
	return packet.Success, ""
}

// credentialsOf gives a device's name and secret. Firmware that can send nothing but a user name
// sends both as that: a device's name has no colon.
func credentialsOf(connect *packet.Connect) credentials {
	if len(connect.Password) > 0 {
		return credentials{name: connect.User, secret: connect.Password}
	}
	name, secret, both := bytes.Cut(connect.User, []byte{':'})
	return credentials{name: name, secret: secret, alone: true, whole: !both}
}

// tokenOf gives the token that a client shows: as its password, or, as clients of some platforms
// have it, as its user name without a password. Empty: it shows none.
func tokenOf(connect *packet.Connect) string {
	prefix := []byte(auth.TokenPrefix)
	switch {
	case connect.HasPassword && bytes.HasPrefix(connect.Password, prefix):
		return string(connect.Password)
	case connect.HasUser && len(connect.Password) == 0 && bytes.HasPrefix(connect.User, prefix):
		return string(connect.User)
	default:
		return ""
	}
}

// attach makes the connection the device's, as conn.login does; with wait > 0 it has to be
// called again then. Without mqttAttached the connection was ended.
func (c *mqttConn) attach() (wait time.Duration) {
	g, d, now := c.door.g, c.device, time.Now()
	if g.Sessions.Get(d.ID) != nil && !c.is(mqttSlowed) && g.rival.slow(d.ID, now) {
		c.set(mqttSlowed)
		g.stats.Rivals.Add(1)
		return rivalWait
	}
	c.session = session.Session{ID: g.Sessions.NextID(), Device: d.ID, Protocol: signalbox.ProtocolMQTT, Conn: c}
	replaced, verdict := g.Ingest.Connect(d, &c.session, c.address())
	switch verdict {
	case ingest.Full:
		return fullWait
	case ingest.Stored:
	default:
		c.t.End(packet.ServerUnavailable, "the hub is stopping, or a newer connection is there")
		return 0
	}
	c.set(mqttAttached)
	g.stats.Logins.Add(1)
	if replaced != nil {
		g.replaced(d, replaced, c.address(), now)
	}
	if d.SecretVersion() != c.version {
		// It was changed after it had been checked, and whoever changed it may have looked for a
		// session to end before there was this one.
		c.clear(mqttAttached)
		g.Ingest.Disconnect(d, &c.session, "secret_changed")
		c.End("secret_changed")
	}
	return 0
}

// join gives the client its session of the broker.
func (c *mqttConn) join(p *packet.Packet) (wait time.Duration) {
	connect := &p.Connect
	hello := broker.Hello{Peer: c.t, ClientID: string(connect.ClientID), Connect: connect, Properties: &p.Properties, Grant: c.grant}
	switch {
	case c.device != nil:
		hello.Owner, hello.Single = deviceOwner(c.device.ID), true
	default:
		hello.Owner, hello.Volatile = c.guest.owner, c.guest.scope == ""
	}
	if hello.ClientID == "" { // 3.1.3-6 and -7
		hello.ClientID, hello.Assigned = "sb-"+rand.Text(), true
	}
	keepAlive := connect.KeepAlive
	if most := uint16(min(c.door.cfg.MaxKeepAlive/time.Second, 65_535)); most > 0 && connect.Version == packet.V5 && (keepAlive == 0 || keepAlive > most) { //nolint:gosec // bounded
		keepAlive = most
		hello.KeepAlive, hello.HasKeepAlive = most, true
	}
	s, outcome := c.door.broker.Connect(&hello)
	if outcome.Wait > 0 || outcome.Close {
		return c.obey(outcome)
	}
	c.broker = s
	if connect.Version == packet.V5 && (!p.Properties.Has(packet.SessionExpiry) || p.Properties.SessionExpiry == 0) {
		c.set(mqttMortal)
	}
	c.t.Admit(keepAlive)
	c.listen()
	return 0
}

// deviceOwner is the owner of a device's session.
func deviceOwner(id signalbox.DeviceID) string { return "d" + strconv.FormatUint(uint64(id), 10) }

// ForgetDevice ends what the broker keeps of a removed device: its session, and what is retained
// below its name. It does not wait for the disk.
func (m *MQTT) ForgetDevice(d *registry.Device) {
	m.broker.Forget(deviceOwner(d.ID))
	m.talks.Delete(d.ID)
	m.broker.ClearRetained(nativePrefix + d.Name + "/")
}

// ForgetToken ends what the broker keeps of a revoked token; its connections end within a
// second.
func (m *MQTT) ForgetToken(id int64) { m.broker.Forget("t" + strconv.FormatInt(id, 10)) }
