package broker

import (
	"errors"
	"slices"
	"strings"

	"signalbox"
	"signalbox/internal/broker/durable"
	"signalbox/internal/history"
	"signalbox/internal/wire/packet"
)

// wanted is a filter of a SUBSCRIBE that is allowed.
type wanted struct {
	filter string
	options
}

// Subscribe takes a SUBSCRIBE (3.8): asks grant for each filter, and answers with SUBACK, for
// a session on disk after the commit. Of a filter that the session has subscribed to before,
// the options are replaced [MQTT-3.8.4-3].
func (s *Session) Subscribe(p *packet.Packet, grant Grant) Outcome {
	c := s.c
	b := c.b
	if c.gen.Load() != s.gen {
		return takenOver()
	}
	if c.givings() > b.cfg.MaxSubscriptions { // it takes the retained messages of earlier ones first
		b.stats.Waited.Add(1)
		return Outcome{Wait: pause}
	}
	var id uint32
	if p.Properties.Has(packet.SubscriptionID) {
		id = p.Properties.SubscriptionID
	}
	reasons := make([]byte, 0, len(p.Filters))
	list := make([]wanted, 0, len(p.Filters))
	var stored []durable.Subscription
	room, refused := b.filterRoom(c), -1
	for i := range p.Filters {
		f := &p.Filters[i]
		reason := b.allow(f, grant)
		if f.NoLocal && strings.HasPrefix(view(f.Text), "$share/") { // [MQTT-3.8.3-4]
			return Outcome{Close: true, Reason: packet.ProtocolError, Words: "A shared subscription cannot have the option No Local."}
		}
		if reason == packet.Success && !c.has(&b.index, view(f.Text)) && !room.take(len(f.Text)) {
			reason = packet.QuotaExceeded
		}
		if reason >= packet.UnspecifiedError {
			b.stats.SubscriptionsRefused.Add(1)
			if refused < 0 {
				refused = i
			}
			if s.version != packet.V5 {
				reason = packet.UnspecifiedError // the only failure of 3.1.1 (3.9.3)
			}
			reasons = append(reasons, byte(reason))
			continue
		}
		w := wanted{string(f.Text), options{qos: f.QoS, handling: f.Handling, noLocal: f.NoLocal, asIs: f.RetainAsPublished}}
		list = append(list, w)
		reasons = append(reasons, f.QoS)
		stored = append(stored, durable.Subscription{
			Filter: w.filter, QoS: w.qos, NoLocal: w.noLocal, RetainAsPublished: w.asIs, Handling: uint8(w.handling), ID: id,
		})
	}
	b.road.Lock()
	defer b.road.Unlock()
	if c.gen.Load() != s.gen {
		return takenOver()
	}
	var settles signalbox.Position
	retained := b.stats.Retained.Load() > 0
	if len(list) > 0 && b.keeper != nil && c.onDisk.Load() {
		for i := range list {
			w := &list[i]
			_, _, shared := packet.Share(w.filter)
			stored[i].Giving = retained && !shared && (w.handling == packet.RetainSend || w.handling == packet.RetainSendIfNew && !c.has(&b.index, w.filter))
		}
		var err error
		if settles, err = b.record(b.keeper.Subscribe(c.kept.id, stored), history.Acked); err != nil {
			return b.later(err)
		}
	}
	b.index.lock()
	jobs := make([]*giving, 0, len(list))
	for i := range list {
		sub, fresh := c.subscribe(&list[i], id)
		if sub.group == nil && (sub.handling == packet.RetainSend || sub.handling == packet.RetainSendIfNew && fresh) { // 3.3.1.3
			jobs = append(jobs, b.retained.giving(sub))
		}
	}
	b.index.unlock()
	if !retained {
		jobs = nil
	}
	s.answer(ack{whole: &whole{s.suback(p.ID, reasons, refused), jobs}, settles: settles})
	return Outcome{}
}

// givings is for how many subscriptions retained messages are still to be sent.
func (c *client) givings() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.out == nil {
		return 0
	}
	return len(c.out.jobs)
}

// allow says whether a filter may be subscribed to.
func (b *Broker) allow(f *packet.Filter, grant Grant) packet.Reason {
	if len(f.Text) > b.cfg.FilterBytes || packet.CheckFilter(f.Text) != nil || strings.Count(view(f.Text), "/") >= b.cfg.MaxLevels {
		return packet.TopicFilterInvalid
	}
	if grant == nil {
		return packet.Success
	}
	return grant(f)
}

// subscribe adds or changes one subscription; fresh says that there was none. It needs the
// index's locks.
func (c *client) subscribe(w *wanted, id uint32) (sub *subscription, fresh bool) {
	sub = c.find(w.filter)
	if sub == nil {
		fresh = true
		sub = &subscription{c: c, filter: w.filter, sibling: c.subs}
		c.b.index.insert(sub)
		c.subs = sub
		c.b.stats.Subscriptions.Add(1)
		c.b.filtered(c, len(sub.filter))
	}
	sub.id, sub.options = id, w.options
	return sub, fresh
}

// find gives a session's subscription. It needs one of the index's locks.
func (c *client) find(filter string) *subscription {
	for s := c.subs; s != nil; s = s.sibling {
		if s.filter == filter {
			return s
		}
	}
	return nil
}

func (c *client) has(x *index, filter string) bool {
	l := &x.locks[c.serial%stripes]
	l.RLock()
	defer l.RUnlock()
	return c.find(filter) != nil
}

// filterRoom is what a session may subscribe to beside what it has.
type filterRoom struct{ filters, bytes, owner int }

func (b *Broker) filterRoom(c *client) filterRoom {
	r := filterRoom{b.cfg.MaxSubscriptions, b.cfg.sessionFilters(), b.cfg.ownerFilters()}
	if !c.single {
		_, bytes, _, _ := b.shares.look(c.owner())
		r.owner -= int(bytes)
	}
	l := &b.index.locks[c.serial%stripes]
	l.RLock()
	defer l.RUnlock()
	for s := c.subs; s != nil; s = s.sibling {
		r.filters--
		r.bytes -= len(s.filter)
	}
	return r
}

// take takes room for a filter of n bytes, if there is.
func (r *filterRoom) take(n int) bool {
	if r.filters < 1 || r.bytes < n || r.owner < n {
		return false
	}
	r.filters--
	r.bytes -= n
	r.owner -= n
	return true
}

// Unsubscribe takes an UNSUBSCRIBE (3.10) and answers with UNSUBACK, for a session on disk
// after the commit. What is queued already is delivered all the same (3.10.4).
func (s *Session) Unsubscribe(p *packet.Packet) Outcome {
	c := s.c
	b := c.b
	b.road.Lock()
	defer b.road.Unlock()
	if c.gen.Load() != s.gen {
		return takenOver()
	}
	reasons := make([]byte, 0, len(p.Filters))
	var there []string
	for i := range p.Filters {
		reason := packet.NoSubscriptionExisted
		text := view(p.Filters[i].Text)
		if c.has(&b.index, text) && !slices.Contains(there, text) { // what is named twice is gone by then
			reason = packet.Success
			there = append(there, string(p.Filters[i].Text))
		}
		reasons = append(reasons, byte(reason))
	}
	settles, err := c.unsubscribe(there)
	if err != nil {
		return b.later(err)
	}
	s.answer(ack{whole: &whole{packet: packet.AppendUnsuback(nil, s.version, p.ID, reasons, nil)}, settles: settles})
	return Outcome{}
}

// unsubscribe ends subscriptions. It needs road.
func (c *client) unsubscribe(filters []string) (settles signalbox.Position, err error) {
	b := c.b
	if len(filters) == 0 {
		return 0, nil
	}
	if b.keeper != nil && c.onDisk.Load() {
		if settles, err = b.record(b.keeper.Unsubscribe(c.kept.id, filters), history.Acked); err != nil {
			return 0, err
		}
	}
	b.index.lock()
	defer b.index.unlock()
	for _, f := range filters {
		sub := c.find(f)
		if sub == nil {
			continue // it was named twice
		}
		b.index.remove(sub)
		for at := &c.subs; *at != nil; at = &(*at).sibling {
			if *at == sub {
				*at = sub.sibling
				break
			}
		}
		b.stats.Subscriptions.Add(-1)
		b.filtered(c, -len(sub.filter))
	}
	return settles, nil
}

// Granted says whether the session has subscribed to a topic, shared subscriptions aside,
// and with which quality of service.
func (s *Session) Granted(topic string) (qos uint8, ok bool) {
	qos, _, ok = s.c.granted(topic)
	return qos, ok
}

func (c *client) granted(topic string) (qos uint8, ids []uint32, ok bool) {
	l := &c.b.index.locks[c.serial%stripes]
	l.RLock()
	defer l.RUnlock()
	for sub := c.subs; sub != nil; sub = sub.sibling {
		if sub.group == nil && packet.Match(sub.filter, topic) {
			qos, ok = max(qos, sub.qos), true
			if sub.id != 0 {
				ids = append(ids, sub.id)
			}
		}
	}
	return qos, ids, ok
}

// Command sends a message to this connection alone, past all queues: it is not kept, and not
// sent again to a later connection. With qos 0 or 1, at most what Granted says; 2 counts as 1.
// The error is of KindUnavailable, and nothing was sent: there is no connection any more, the
// client is behind by as many commands as may wait (ErrBusy), or it does not take packets of this size.
func (s *Session) Command(topic string, payload []byte, qos uint8) error {
	c := s.c
	_, ids, _ := c.granted(topic)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != s {
		return signalbox.Errorf(signalbox.KindUnavailable, "device_offline", "the connection has ended")
	}
	o := c.outbound()
	cmd := command{topic: topic, payload: payload, ids: ids}
	size := cmd.frame(min(qos, 1), 1)
	if n := size.size(s.version); s.tooLarge(n) {
		c.b.stats.TooLarge.Add(1)
		return signalbox.Errorf(signalbox.KindUnavailable, "packet_too_large", "the command takes a packet of %d bytes, which is more than the device's connection takes", n)
	}
	if qos == 0 {
		f := cmd.frame(0, 0)
		if !c.takesDirect(&o.direct, f.size(s.version)) {
			return o.busy()
		}
		c.hand(s, f.append(nil, s.version))
		return nil
	}
	if len(o.commands) >= maxCommands || len(o.commandIDs) >= idCommands {
		return o.busy()
	}
	cmd.payload = append([]byte(nil), payload...)
	o.commands = append(o.commands, cmd)
	if o.inflight < s.windowOf(o) && s.ready.Load() {
		c.b.mark(c)
	}
	return nil
}

// ErrBusy is the cause of Session.Command's error when the client is behind. A Peer that is Roomy
// is told when there is room again.
var ErrBusy = errors.New("the connection does not take what was sent before")

// busy needs the client's lock.
func (o *outbound) busy() error {
	o.refusedOne = true
	return signalbox.Wrap(signalbox.KindUnavailable, "device_busy", ErrBusy, "the device does not take what was sent before; at most %d commands wait for it", maxCommands)
}

func (m *command) frame(qos uint8, id uint16) frame {
	f := frame{topic: m.topic, payload: m.payload, qos: qos, id: id}
	if len(m.ids) > 0 { // [MQTT-3.3.4-3]
		f.ids(m.ids[0], m.ids[1:])
	}
	return f
}

// encodeCommand gives a command an identifier that no other has (2.2.1) and encodes it.
func (c *client) encodeCommand(s *Session, o *outbound, m *command, buf []byte) []byte {
	for taken := true; taken; {
		o.lastCommand = o.lastCommand%idCommands + 1
		taken = false
		for _, id := range o.commandIDs {
			taken = taken || id == idQueue+o.lastCommand
		}
	}
	id := idQueue + o.lastCommand
	o.commandIDs = append(o.commandIDs, id)
	c.b.stats.Delivered.Add(1)
	f := m.frame(1, id)
	return f.append(buf, s.version)
}
