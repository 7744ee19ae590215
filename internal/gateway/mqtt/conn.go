package mqtt

import (
	"net/netip"
	"sync/atomic"

	"signalbox/internal/gateway/loop"
	"signalbox/internal/wire/packet"
)

// Conn is one connection as its endpoint and the broker see it. There may be very many: the
// order of the fields keeps gaps out.
type Conn struct {
	conn     *loop.Conn
	server   *Server
	endpoint Endpoint // nil before CONNECT

	seen      uint32 // milliseconds since the server's start, modulo 2^32, of the last sign of life
	flags     atomic.Uint32
	keepAlive uint16 // seconds, 0 for none
	version   packet.Version
	// terse: the client takes packets so small that a DISCONNECT has no words.
	terse bool
	heard bool // a packet came since the last tick
	waits bool // the endpoint asked to wait
}

// What is true of a connection, in Conn.flags.
const (
	flagAdmitted uint32 = 1 << iota // by the endpoint
	flagAnswered                    // its CONNACK was written
	flagEnded                       // nothing more is received
	flagGuest                       // see Guest
)

// terseBytes is the maximum packet size of a client below which words are left out.
const terseBytes = 256

func (c *Conn) is(flag uint32) bool { return c.flags.Load()&flag != 0 }

// RemoteAddr returns the peer's address; a 4-in-6 address is given as IPv4.
func (c *Conn) RemoteAddr() netip.AddrPort { return c.conn.Remote() }

// Guest reports whether the connection is that of a web page which was admitted for its address
// alone (WebSocketConfig.Admits), and may be anybody's: it should not get what needs no credentials.
func (c *Conn) Guest() bool { return c.is(flagGuest) }

// Version is what the CONNECT said; 0 before it.
func (c *Conn) Version() packet.Version { return c.version }

// Endpoint is the connection's; nil before CONNECT.
func (c *Conn) Endpoint() Endpoint { return c.endpoint }

// Admit raises the limit of packets and sets the keep alive that holds, in seconds (0: none).
// It may be called only from within the endpoint's methods.
func (c *Conn) Admit(keepAlive uint16) {
	c.keepAlive = keepAlive
	c.flags.Or(flagAdmitted)
}

// CommandRoom tells the endpoint, if it wants to know (Roomer), that the broker takes commands for
// the connection again. It may be called from any goroutine, with locks held.
func (c *Conn) CommandRoom() {
	if r, ok := c.endpoint.(Roomer); ok {
		r.CommandRoom()
	}
}

// Write hands over encoded packets, whole ones; b is not kept. The first one is the CONNACK
// that admits the client. The error is loop.ErrSlow if the client reads too slowly (the
// connection is then cut), or the reason of the connection's end.
func (c *Conn) Write(b []byte) error {
	if len(b) > 0 && b[0] == byte(packet.CONNACK)<<4 {
		c.flags.Or(flagAnswered)
	}
	return c.conn.Write(b)
}

// Queued returns how many bytes wait to be sent.
func (c *Conn) Queued() int { return c.conn.Queued() }

// End closes the connection after what is queued; the endpoint's Closed gets an *Ended. A
// client that has had its CONNACK is told the reason in a DISCONNECT if it speaks 5.0 (3.14);
// one that waits for it is told in the CONNACK (3.2.2.2; for 3.1.1 with the return code that
// comes nearest, and none where there is none: 3.1.1, 3.2.2.3). words are short. End does
// nothing if the connection has ended.
func (c *Conn) End(reason packet.Reason, words string) {
	c.end(&Ended{Reason: reason, Words: words})
}

func (c *Conn) end(why *Ended) {
	c.flags.Or(flagEnded)
	c.conn.Close(c.farewell(why), why)
}

// farewell is the packet that tells the client why; nil where the protocol has none.
func (c *Conn) farewell(why *Ended) []byte {
	var props packet.Properties
	if why.Words != "" && !c.terse {
		props.ReasonString = []byte(why.Words)
		props.Set(packet.ReasonString)
	}
	switch {
	case c.version == 0:
		return nil
	case c.is(flagAnswered) && c.version == packet.V5:
		return packet.AppendDisconnect(nil, c.version, why.Reason, &props)
	case c.is(flagAnswered):
		return nil
	case c.version == packet.V5:
		if why.Reason < packet.UnspecifiedError {
			return nil
		}
		return packet.AppendConnack(nil, c.version, false, connackReason(why.Reason), &props)
	default:
		if code := returnCode(why.Reason); code != 0 {
			return packet.AppendConnack(nil, c.version, false, code, nil)
		}
		return nil
	}
}

// connackReason gives a reason that a CONNACK may have (5.0, 3.2.2.2) for one of DISCONNECT.
func connackReason(r packet.Reason) packet.Reason {
	switch r {
	case packet.SessionTakenOver, packet.ServerShuttingDown, packet.AdministrativeAction, packet.KeepAliveTimeout:
		return packet.ServerUnavailable
	default:
		return r
	}
}

// returnCode gives the return code of a 3.1.1 CONNACK (3.2.2.3), 0 for none.
func returnCode(r packet.Reason) packet.Reason {
	switch r {
	case packet.UnsupportedVersion:
		return packet.RefusedVersion
	case packet.ClientIDNotValid:
		return packet.RefusedClientID
	case packet.ServerUnavailable, packet.ServerBusy, packet.ServerShuttingDown, packet.QuotaExceeded, packet.SessionTakenOver, packet.ConnectionRateExceeded:
		return packet.RefusedUnavailable
	case packet.BadUserOrPassword:
		return packet.RefusedBadUser
	case packet.NotAuthorized, packet.Banned, packet.AdministrativeAction, packet.BadAuthMethod:
		return packet.RefusedNotAuthorized
	default:
		return 0
	}
}
