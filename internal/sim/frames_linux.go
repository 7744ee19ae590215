package sim

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"time"

	"github.com/tidwall/gjson"
)

// savedPrefix is how a hub most likely spells its most frequent frame; others are parsed in full.
const savedPrefix = `{"type":"saved","seq":`

// frame takes one frame that p's hub sent.
func (w *worker) frame(p *peer, f frame) {
	switch f.op {
	case opText:
		w.text(p, f.payload)
	case opPing:
		w.out = appendFrame(w.out[:0], opPong, f.payload, w.mask)
		w.write(p, w.out)
	case opPong:
		if len(f.payload) != 8 {
			return
		}
		token := binary.BigEndian.Uint64(f.payload)
		switch {
		case token == loginToken && p.state == loggingIn:
			w.isReady(p)
		case w.order != nil:
			w.order.job.pong(w, p, token)
		}
	case opClose:
		// The connection's end follows at once.
	}
}

func (w *worker) text(p *peer, b []byte) {
	if bytes.HasPrefix(b, []byte(savedPrefix)) {
		seq := uint64(0)
		for _, c := range b[len(savedPrefix):] {
			if c < '0' || c > '9' {
				break
			}
			seq = seq*10 + uint64(c-'0')
		}
		w.heardSaved(p, seq)
		return
	}
	m := gjson.GetManyBytes(b, "type", "id", "seq", "saved", "error", "command")
	switch {
	case m[4].Exists():
		w.s.refusals.Add(1)
		w.refused(b)
	case m[0].Str == "auth_ok":
		if p.state != loggingIn {
			return
		}
		if w.s.cfg.Seq {
			p.saved = Counter(m[3].Uint())
			p.n = p.saved
		}
		w.isReady(p)
	case m[0].Str == "saved":
		w.heardSaved(p, m[2].Uint())
	case m[5].Exists():
		w.s.commands.Add(1)
		if !m[1].Exists() {
			return // version 1: a board cannot answer
		}
		w.out = appendFrame(w.out[:0], opText, []byte(`{"type":"ack","id":`+m[1].Raw+`}`), w.mask)
		w.out = appendFrame(w.out, opText, []byte(`{"type":"result","id":`+m[1].Raw+`,"ok":true}`), w.mask)
		w.write(p, w.out)
	}
}

func (w *worker) heardSaved(p *peer, seq uint64) {
	w.s.saved.Add(1)
	p.saved = max(p.saved, Counter(seq))
	if p.mark != 0 && p.saved >= p.mark {
		w.s.SavedAfter.Record(time.Duration(time.Now().UnixNano() - p.at))
		p.mark = 0
	}
}

// maker makes telemetry frames from a template: only digits change.
type maker struct {
	template           []byte // a whole frame, masked
	head               int    // length of its header
	seq, n, sum, servo int    // where the digits stand in the payload
	stamp              int    // the same; -1: there is none, as seq
	mask               [4]byte
	digits             []byte
}

func newMaker(withSeq, withStamp bool, mask [4]byte) maker {
	text := `{"type":"telemetry"`
	m := maker{mask: mask, seq: -1, stamp: -1}
	if withSeq {
		text += `,"seq":`
		m.seq = len(text)
		text += counterDigits
	}
	text += `,"status":"работает","servo1":`
	m.servo = len(text)
	text += `100,"servo2":90,"button1":"released","button2":"pressed","n":`
	m.n = len(text)
	text += counterDigits + `,"sum":"`
	m.sum = len(text)
	text += sumDigits + `"`
	if withStamp {
		text += `,"sent_us":`
		m.stamp = len(text)
		text += stampDigits
	}
	text += `}`
	m.template = appendFrame(nil, opText, []byte(text), mask)
	m.head = len(m.template) - len(text)
	return m
}

// append appends the frame of the device's n-th message.
func (m *maker) append(dst []byte, device, n uint64) []byte {
	at := len(dst) + m.head
	dst = append(dst, m.template...)
	payload := dst[at:]
	m.digits = strconv.AppendUint(m.digits[:0], base+n, 10)
	if m.seq >= 0 {
		m.put(payload, m.seq)
	}
	m.put(payload, m.n)
	m.digits = strconv.AppendUint(m.digits[:0], 100+n%80, 10)
	m.put(payload, m.servo)
	m.digits = appendSum(m.digits[:0], device, n)
	m.put(payload, m.sum)
	if m.stamp >= 0 {
		m.digits = strconv.AppendInt(m.digits[:0], time.Now().UnixMicro(), 10)
		m.put(payload, m.stamp)
	}
	return dst
}

func (m *maker) put(payload []byte, at int) {
	for i, c := range m.digits {
		payload[at+i] = c ^ m.mask[(at+i)&3]
	}
}
