package broker

import (
	"hash/maphash"
	"slices"
	"time"

	"signalbox"
	"signalbox/internal/broker/durable"
	"signalbox/internal/history"
	"signalbox/internal/wire/packet"
)

// forEver is the Session Expiry Interval that never ends (3.1.2.11.2).
const forEver = 0xFFFF_FFFF

// arrival is a CONNECT on its way to its session.
type arrival struct {
	*Hello
	asked   uint32        // Session Expiry Interval as the client asked, or what 3.1.1 stands for
	expiry  time.Duration // what it gets
	lowered bool
	will    *durable.Will
	present bool
	wills   []*durable.Will    // of sessions that ended by it, to be published
	ended   signalbox.Position // of the record of such an end
	settles signalbox.Position
}

// Connect gives an admitted client its session and answers with CONNACK, at once or, for a
// session on disk, after the commit. An outcome with Wait or Close comes with no session.
func (b *Broker) Connect(h *Hello) (*Session, Outcome) {
	if c := h.Connect; c.HasWill && packet.CheckPayload(&c.WillProperties, c.WillPayload) != nil { // 3.1.3.2.3
		return nil, Outcome{Close: true, Reason: packet.PayloadFormatInvalid, Words: "The will's payload is not the UTF-8 that its Payload Format Indicator says."}
	}
	a := arrival{Hello: h}
	b.wishes(&a)
	key, ownerLen := h.Owner, len(h.Owner)
	if !h.Single {
		key += "\x00" + h.ClientID
	}
	if a.will != nil {
		a.will.Message.From = key
	}
	b.road.Lock()
	s, outcome := b.enter(&a, key, ownerLen)
	b.road.Unlock()
	for _, w := range a.wills {
		b.publishWill(w, key[:ownerLen])
	}
	if s == nil {
		return nil, outcome
	}
	b.stats.Connects.Add(1)
	connack := b.connack(&a, s)
	if a.settles > 0 {
		s.answer(ack{whole: &whole{packet: connack}, settles: a.settles})
		return s, Outcome{}
	}
	_ = h.Peer.Write(connack) // the end of a connection that is gone comes by Closed
	s.ready.Store(true)
	if a.present {
		b.mark(s.c)
	}
	return s, Outcome{}
}

// wishes reads what the client wants of its session.
func (b *Broker) wishes(a *arrival) {
	con := a.Connect
	switch {
	case con.Version == packet.V5:
		if a.Properties.Has(packet.SessionExpiry) {
			a.asked = a.Properties.SessionExpiry
		}
	case !con.Clean: // 5.0, 3.1.2.11.2: Clean Session 0 is the same as no end
		a.asked = forEver
	}
	if a.Volatile {
		a.lowered = a.asked > 0
	} else {
		a.expiry, a.lowered = b.expiry(a.asked)
	}
	if !con.HasWill {
		return
	}
	p := &con.WillProperties
	m := durable.Message{
		Topic: string(con.WillTopic), Payload: slices.Clone(con.WillPayload), Properties: packet.AppendForwarded(nil, p),
		QoS: con.WillQoS, Retain: con.WillRetain,
	}
	if m.Retain && (a.Volatile || !b.retained.room(b, a.Owner, m.Topic, keptWeight(&m))) {
		b.stats.RetainedRefused.Add(1) // it will be routed
		m.Retain = m.Retain && !a.Volatile
	}
	a.will = &durable.Will{Message: m}
	if p.Has(packet.MessageExpiry) {
		// Its life begins when it is published; until then ExpiresAt counts from the Unix epoch.
		a.will.Message.ExpiresAt = time.Unix(int64(p.MessageExpiry), 0)
	}
	if p.Has(packet.WillDelay) {
		a.will.Delay = time.Duration(p.WillDelay) * time.Second
	}
}

func (b *Broker) expiry(asked uint32) (_ time.Duration, lowered bool) {
	d := time.Duration(asked) * time.Second
	if asked == forEver || d > b.cfg.MaxExpiry {
		return b.cfg.MaxExpiry, true
	}
	return d, false
}

// enter finds or makes the session and puts the connection into it. It needs road.
func (b *Broker) enter(a *arrival, key string, ownerLen int) (*Session, Outcome) {
	hash := maphash.String(b.seed, key)
	b.mu.Lock()
	c := b.clients[hash]
	for c != nil && c.key != key {
		c = c.next
	}
	b.mu.Unlock() // what changes the map has road
	if c != nil {
		c.mu.Lock()
		resumes := !a.Connect.Clean && !c.dead && c.kept != nil && c.kept.expiry != 0
		c.mu.Unlock()
		if !resumes {
			if full := b.replace(a, c); full {
				return nil, Outcome{Wait: pause}
			}
			c = nil
		}
	}
	if c == nil && a.expiry > 0 && !b.mayKeep(key[:ownerLen], a.Single) {
		b.stats.SessionsRefused.Add(1)
		return nil, Outcome{Close: true, Reason: packet.QuotaExceeded, Words: "The server keeps as many sessions as it may, in all or for these credentials."}
	}
	s := &Session{peer: a.Peer, version: a.Connect.Version, window: uint16(b.cfg.Inflight)} //nolint:gosec // at most 4,096
	if a.Volatile {
		s.traits |= traitVolatile
	}
	if p := a.Properties; p != nil {
		if p.Has(packet.RequestProblem) && p.RequestProblem == 0 {
			s.traits |= traitTerse
		}
		if p.Has(packet.ReceiveMaximum) {
			s.window = min(s.window, p.ReceiveMaximum) // [MQTT-3.3.4-9]
		}
		if p.Has(packet.MaximumPacketSize) {
			s.largest = p.MaximumPacketSize
		}
	}
	if c != nil {
		if !c.revoke(a.Grant) {
			b.stats.Waited.Add(1)
			return nil, Outcome{Wait: pause}
		}
		return b.resume(a, c, s)
	}
	c = &client{b: b, key: key, ownerLen: uint16(ownerLen), single: a.Single, serial: b.serials.Add(1)} //nolint:gosec // owners are short
	s.c = c
	if a.expiry > 0 || a.will != nil {
		c.kept = &kept{expiry: a.expiry, will: a.will, place: -1}
		if b.keeper != nil {
			if outcome := b.beginRecord(a, c, s); outcome != (Outcome{}) {
				return nil, outcome
			}
			c.onDisk.Store(a.expiry > 0)
		}
	}
	c.conn = s
	s.gen = c.gen.Add(1)
	b.stats.Connected.Add(1)
	if a.expiry > 0 {
		b.keeps(c, 1)
	} else {
		a.settles = a.ended // nothing else of it is told
	}
	b.mu.Lock()
	c.next = b.clients[hash]
	b.clients[hash] = c
	if !c.single {
		c.fellow = b.owners[c.owner()]
		b.owners[c.owner()] = c
	}
	b.mu.Unlock()
	return s, Outcome{}
}

// beginRecord records that the session is there and connected. It needs road, and of a session
// that others know the client's lock.
func (b *Broker) beginRecord(a *arrival, c *client, s *Session) Outcome {
	id := c.kept.id
	if id == 0 {
		id = b.keeper.NewID()
	}
	rec := &durable.Session{ID: id, Owner: c.owner(), Volatile: a.expiry == 0, Expiry: a.expiry, Connected: true, Will: a.will, Sent: newMark(c.sent(), s.window).asked}
	if !c.single {
		rec.ClientID = c.key[int(c.ownerLen)+1:]
	}
	p, err := b.record(b.keeper.Begin(rec), history.Acked)
	if err != nil {
		return b.later(err)
	}
	c.kept.id, a.settles = id, p
	return Outcome{}
}

// resume continues a session (3.1.2.4) with a new connection.
func (b *Broker) resume(a *arrival, c *client, s *Session) (*Session, Outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.c = c
	k := c.kept
	if b.keeper != nil && k.id != 0 {
		if o := c.out; o != nil && o.unsaved && c.onDisk.Load() { // of the connection that is taken over
			b.save(c, o)
		}
		if outcome := b.beginRecord(a, c, s); outcome != (Outcome{}) {
			return nil, outcome
		}
	}
	// A will that waits is not sent any more [MQTT-3.1.3-9]; one of a connection that is taken
	// over is, if it was not to wait (3.1.4).
	if old := c.conn; old != nil {
		if k.will != nil && k.will.Delay == 0 {
			a.wills = append(a.wills, k.will)
		}
		b.leave(old)
	} else {
		b.stats.Offline.Add(-1)
	}
	k.will, k.wait, k.expiry = a.will, false, a.expiry
	k.willAt, k.endAt = time.Time{}, time.Time{}
	b.timer.forget(c)
	c.conn = s
	s.gen = c.gen.Add(1)
	if c.in != nil {
		c.in.open = 0 // 4.9: each connection has its quota
	}
	if c.out != nil {
		c.rewind(c.out)
		c.out.mark = newMark(c.sent(), s.window)
	}
	a.present = true
	if a.expiry == 0 {
		b.keeps(c, -1)
	}
	b.stats.Connected.Add(1)
	b.stats.Resumed.Add(1)
	return s, Outcome{}
}

// leave ends a connection that another one takes the place of [MQTT-3.1.4-3].
func (b *Broker) leave(old *Session) {
	b.stats.TakenOver.Add(1)
	b.stats.Connected.Add(-1)
	old.peer.End(packet.SessionTakenOver, "Another connection has taken over this session.")
}

// replace ends a session whose place a new one takes. It needs road; full says that nothing
// happened because the log is full.
func (b *Broker) replace(a *arrival, c *client) (full bool) {
	c.mu.Lock()
	old, k := c.conn, c.kept
	c.mu.Unlock()
	p, done := b.recordEnd(c, history.Acked)
	if !done {
		return true
	}
	if c.onDisk.Load() { // [MQTT-3.1.2-4]: CONNACK says that it is gone
		a.ended = p
	}
	if k != nil && k.will != nil && (old != nil || k.wait) { // [MQTT-3.1.2-8]: the session ends
		a.wills = append(a.wills, k.will)
	}
	b.remove(c)
	if old != nil {
		b.leave(old)
	}
	return false
}

// recordEnd records the end of a session. It needs road; false when the log is full.
func (b *Broker) recordEnd(c *client, urgency history.Urgency) (signalbox.Position, bool) {
	if b.keeper == nil || c.kept == nil || c.kept.id == 0 {
		return 0, true
	}
	p, err := b.record(b.keeper.End(c.kept.id), urgency)
	return p, err == nil || !isFull(err)
}

// remove takes a session out of everything. Its connection, if it has one, does nothing from
// now on. It needs road.
func (b *Broker) remove(c *client) {
	hash := maphash.String(b.seed, c.key)
	b.mu.Lock()
	for at, first := b.clients[hash], true; at != nil; at, first = at.next, false {
		switch {
		case first && at == c && c.next == nil:
			delete(b.clients, hash)
		case first && at == c:
			b.clients[hash] = c.next
		case at.next == c:
			at.next = c.next
		}
	}
	if !c.single {
		b.removeFellow(c)
	}
	b.mu.Unlock()

	if c.hasSubscriptions(&b.index) {
		b.index.lock()
		n, bytes := 0, 0
		for sub := c.subs; sub != nil; sub = sub.sibling {
			b.index.remove(sub)
			n++
			bytes += len(sub.filter)
		}
		c.subs = nil
		b.index.unlock()
		b.filtered(c, -bytes)
		b.stats.Subscriptions.Add(int64(-n))
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return
	}
	c.dead = true
	if c.kept != nil {
		b.timer.forget(c)
		if c.kept.expiry != 0 {
			b.keeps(c, -1)
			if c.conn == nil {
				b.stats.Offline.Add(-1)
			}
		}
	}
	if c.conn != nil {
		c.conn = nil
		c.gen.Add(1)
	}
	if o := c.out; o != nil {
		c.fewer(o, o.messages, o.bytes)
		c.unshare(o)
		c.dropDirect(&o.direct)
		c.out = nil
	}
}

func (c *client) hasSubscriptions(x *index) bool {
	l := &x.locks[0]
	l.RLock()
	defer l.RUnlock()
	return c.subs != nil
}

func (b *Broker) removeFellow(c *client) {
	first := b.owners[c.owner()]
	if first == c {
		if c.fellow == nil {
			delete(b.owners, c.owner())
		} else {
			b.owners[c.owner()] = c.fellow
		}
		return
	}
	for at := first; at != nil; at = at.fellow {
		if at.fellow == c {
			at.fellow = c.fellow
			return
		}
	}
}

// connack composes CONNACK (3.2). What the broker supports in full needs no property:
// retained messages, wildcards, shared subscriptions, subscription identifiers, and quality
// of service 2.
func (b *Broker) connack(a *arrival, s *Session) []byte {
	if s.version != packet.V5 {
		return packet.AppendConnack(nil, s.version, a.present, packet.Success, nil)
	}
	var p packet.Properties
	set := func(id packet.Property) { p.Set(id) }
	if a.lowered { // [MQTT-3.2.2-21]
		set(packet.SessionExpiry)
		p.SessionExpiry = uint32(a.expiry / time.Second) //nolint:gosec // below what was asked
	}
	set(packet.ReceiveMaximum)
	p.ReceiveMaximum = b.cfg.ReceiveMaximum
	if b.cfg.MaxPacket > 0 {
		set(packet.MaximumPacketSize)
		p.MaximumPacketSize = b.cfg.MaxPacket
	}
	if b.cfg.TopicAliases > 0 {
		set(packet.TopicAliasMaximum)
		p.TopicAliasMaximum = uint16(b.cfg.TopicAliases) //nolint:gosec // at most 65,535
	}
	if a.Assigned { // [MQTT-3.2.2-16]
		set(packet.AssignedClientID)
		p.AssignedClientID = []byte(a.ClientID)
	}
	if a.HasKeepAlive { // [MQTT-3.2.2-22]
		set(packet.ServerKeepAlive)
		p.ServerKeepAlive = a.KeepAlive
	}
	return packet.AppendConnack(nil, s.version, a.present, packet.Success, &p)
}

// MayExpire reports whether a DISCONNECT may carry this Session Expiry Interval: not above 0
// when CONNECT had 0 (3.14.2.2.2), which is a protocol error.
func (s *Session) MayExpire(expiry uint32) bool {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	return expiry == 0 || c.kept != nil && c.kept.expiry != 0
}

// Closed says that the connection has ended, at now; it is the last call. Graceful is after a
// DISCONNECT with reason 0x00, which discards the will [MQTT-3.14.4-3]. Expiry is that
// DISCONNECT's Session Expiry Interval, nil for none.
func (s *Session) Closed(graceful bool, expiry *uint32, now time.Time) {
	b, c := s.c.b, s.c
	b.road.Lock()
	c.mu.Lock()
	if c.conn != s { // taken over, or forgotten
		c.mu.Unlock()
		b.road.Unlock()
		return
	}
	k := c.kept
	var will *durable.Will
	if k != nil {
		if !graceful {
			will = k.will
		}
		if expiry != nil && k.expiry != 0 {
			k.expiry, _ = b.expiry(*expiry)
			if k.expiry == 0 {
				b.keeps(c, -1)
			}
		}
	}
	b.stats.Connected.Add(-1)
	if k == nil || k.expiry == 0 {
		c.mu.Unlock()
		var id durable.SessionID
		if k != nil {
			id = k.id
		}
		b.remove(c)
		b.road.Unlock()
		b.leaveWith(pendingWill{will, c.owner(), id})
		return
	}
	defer b.road.Unlock()
	defer c.mu.Unlock()
	c.conn = nil
	c.gen.Add(1)
	b.stats.Offline.Add(1)
	b.rest(c, will, now)
}

// rest leaves a session without a connection. It needs road and the client's lock.
func (b *Broker) rest(c *client, will *durable.Will, now time.Time) {
	k := c.kept
	k.will, k.wait = will, will != nil
	if will != nil {
		k.willAt = now.Add(will.Delay)
	}
	k.endAt = now.Add(k.expiry)
	if o := c.out; o != nil {
		c.rewind(o)
		if b.keeper != nil && c.onDisk.Load() {
			c.unload(o)
			if o.unsaved { // now, so that a kill later does not send again what was acknowledged
				b.save(c, o)
			}
		}
	}
	if b.keeper != nil && k.id != 0 {
		gen, expiry, sent := c.gen.Load(), k.expiry, c.sent()
		b.owe(func() bool {
			if c.gen.Load() != gen { // it is connected again
				return true
			}
			_, err := b.record(b.keeper.Close(k.id, now, expiry, sent, will != nil), history.Soon)
			return err == nil || !isFull(err)
		})
	}
	b.timer.set(c)
}
