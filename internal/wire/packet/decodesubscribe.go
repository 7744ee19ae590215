package packet

// The Subscription Options (3.8.3.1).
const (
	optionQoS               = 0x03
	optionNoLocal           = 0x04
	optionRetainAsPublished = 0x08
	optionReserved          = 0xC0
)

// decodeSubscribe: 3.8.
func (p *Packet) decodeSubscribe(b []byte, v Version) error {
	b, err := p.filtersHead(b, v, inSubscribe)
	if err != nil {
		return err
	}
	for len(b) > 0 {
		var f Filter
		if f.Text, b, err = filterText(b, v); err != nil {
			return err
		}
		if len(b) == 0 {
			return short("the options of a subscription")
		}
		if err := f.options(b[0], v); err != nil {
			return err
		}
		p.Filters = append(p.Filters, f)
		b = b[1:]
	}
	return nil
}

// decodeUnsubscribe: 3.10.
func (p *Packet) decodeUnsubscribe(b []byte, v Version) error {
	b, err := p.filtersHead(b, v, inUnsubscribe)
	if err != nil {
		return err
	}
	for len(b) > 0 {
		var f Filter
		if f.Text, b, err = filterText(b, v); err != nil {
			return err
		}
		p.Filters = append(p.Filters, f)
	}
	return nil
}

// filtersHead reads what comes before the filters, and wants one at least [MQTT-3.8.3-2],
// [MQTT-3.10.3-2] (3.1.1: MQTT-3.8.3-3, MQTT-3.10.3-2).
func (p *Packet) filtersHead(b []byte, v Version, allowed uint64) (rest []byte, err error) {
	p.Filters = p.Filters[:0]
	if b, err = p.identifier(b); err != nil {
		return nil, err
	}
	if v == V5 {
		if b, err = p.Properties.take(b, allowed, p.Type); err != nil {
			return nil, err
		}
	} else {
		p.Properties.reset()
	}
	if len(b) == 0 {
		section := "MQTT-3.8.3-2"
		if p.Type == UNSUBSCRIBE {
			section = "MQTT-3.10.3-2"
		}
		return nil, violation(section, "the %s has no topic filter; it needs one at least", p.Type)
	}
	return b, nil
}

// filterText takes a topic filter [MQTT-3.8.3-1], [MQTT-3.10.3-1]. 3.1.1 has no shared
// subscriptions: there `$share` is a word like others.
func filterText(b []byte, v Version) (text, rest []byte, err error) {
	text, rest, ok := cut(b)
	if !ok {
		return nil, nil, short("a topic filter")
	}
	if err := checkFilter(text); err != nil {
		return nil, nil, err
	}
	if v == V5 {
		if err := checkShare(text); err != nil {
			return nil, nil, err
		}
	}
	return text, rest, nil
}

// options reads the byte after a filter (3.8.3.1).
func (f *Filter) options(o byte, v Version) error {
	f.QoS = o & optionQoS
	if f.QoS == 3 {
		return violation("3.8.3.1", "the QoS of a subscription is 3; 0, 1 and 2 are allowed")
	}
	if v != V5 {
		if o&^optionQoS != 0 { // 3.1.1: [MQTT-3-8.3-4]
			return malformed("MQTT-3-8.3-4", "the options of a subscription are %#x; 3.1.1 allows 0, 1 and 2", o)
		}
		return nil
	}
	if o&optionReserved != 0 {
		return malformed("MQTT-3.8.3-5", "the options of a subscription are %#x; the two highest bits must be 0", o)
	}
	f.NoLocal = o&optionNoLocal != 0
	f.RetainAsPublished = o&optionRetainAsPublished != 0
	f.Handling = RetainHandling(o >> 4 & 3)
	if f.Handling > RetainNever {
		return violation("3.8.3.1", "the retain handling of a subscription is 3; 0, 1 and 2 are allowed")
	}
	if f.NoLocal && len(f.Text) >= len(sharePrefix) && string(f.Text[:len(sharePrefix)]) == sharePrefix {
		return violation("MQTT-3.8.3-4", "the shared subscription %q has the No Local option", clip(f.Text))
	}
	return nil
}

// decodeSuback: SUBACK and UNSUBACK, 3.9 and 3.11.
func (p *Packet) decodeSuback(b []byte, v Version) error {
	b, err := p.identifier(b)
	if err != nil {
		return err
	}
	p.Reasons = nil
	if v == V5 {
		if b, err = p.Properties.take(b, inAck, p.Type); err != nil {
			return err
		}
	} else {
		p.Properties.reset()
		if p.Type == UNSUBACK { // 3.1.1: 3.11.3, no payload
			if len(b) != 0 {
				return trailing(p.Type, b)
			}
			return nil
		}
	}
	if len(b) == 0 {
		section := "MQTT-3.9.3-1"
		if p.Type == UNSUBACK {
			section = "MQTT-3.11.3-1"
		}
		return violation(section, "the %s has no reason code; there is one for each filter", p.Type)
	}
	for _, r := range b {
		if !subackReason(p.Type, v, Reason(r)) { // [MQTT-3.9.3-2], [MQTT-3.11.3-2]
			return strangeReason(p.Type, Reason(r))
		}
	}
	p.Reasons = b
	return nil
}
