package broker

import "signalbox"

// mark is how far a durable session's sender may go. It is recorded before that: after a kill
// messages below it may have been sent, and are marked as duplicates if they are sent again,
// and those from it on were not [MQTT-3.3.1-1]. It is about a window ahead of what was sent, and
// further where that would hold the sender up.
type mark struct {
	safe  uint64             // the sender may send what is below it
	asked uint64             // as recorded last; not less than safe
	at    signalbox.Position // of that record; 0: it is on disk
	from  uint64             // what was sent at that time
	ahead uint64             // how far asked is from there
	// wanted says that a record is on its way.
	wanted bool
}

// newMark is the mark that is recorded when a connection begins.
func newMark(sent uint64, window uint16) mark {
	w := uint64(window)
	return mark{safe: sent + w, asked: sent + w, from: sent, ahead: w}
}

// next gives how far ahead of sent the mark is to be recorded: less than before when little was
// sent since.
func (m *mark) next(sent, window uint64) uint64 {
	if !m.wanted {
		m.ahead = min(m.ahead, 2*(sent-min(m.from, sent)))
	}
	m.ahead = max(m.ahead, window)
	return m.ahead
}

// recorded says that the mark has a record with the position p.
func (m *mark) recorded(sent, asked uint64, p signalbox.Position) {
	m.safe, m.asked, m.at, m.from, m.wanted = min(m.safe, asked), asked, p, sent, false
}

// sent is the number below which messages may have been sent.
func (o *outbound) sent() uint64 { return max(o.resend, o.cursor) }

// sent is the same of a session that may have no queue yet.
func (c *client) sent() uint64 {
	if c.out == nil {
		return 1
	}
	return c.out.sent()
}

// safe reports whether the message n may be sent.
func (c *client) safe(o *outbound, n uint64) bool {
	if m := &o.mark; m.at > 0 && c.b.acks.settled(m.at) {
		m.safe, m.at = m.asked, 0
	}
	return n < o.mark.safe
}

// moveMark has the mark recorded when what is sent comes near it, and may go beyond it because
// the window has room for so many.
func (c *client) moveMark(o *outbound, room int) {
	m := &o.mark
	if sent := o.sent(); m.wanted || room <= 0 || sent+uint64(room) <= m.asked || sent+(m.ahead+1)/2 <= m.asked {
		return
	}
	m.wanted = true
	m.ahead = min(2*m.ahead, max(m.ahead, uint64(c.b.cfg.Inflight))) //nolint:gosec // positive
	o.unsaved = true
	c.b.flush.add(c, o, true)
}
