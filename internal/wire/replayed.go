package wire

import (
	"bytes"

	"github.com/tidwall/gjson"
)

// ReplayMember is the member of a JSON message that marks it as played from the past: an
// object with the replay's id, and under hub the instance of the hub that plays it.
const ReplayMember = "replay"

// Replayed reports whether the JSON object body is a message of a replay: it has the member
// replay, spelt so, which is an object with a text under hub. A hub refuses such messages,
// its own and those of others, so that the past is not stored as the present.
func Replayed(body []byte) bool {
	if !bytes.Contains(body, []byte(`"`+ReplayMember+`"`)) {
		return false
	}
	mark := gjson.GetBytes(body, ReplayMember)
	if !mark.IsObject() {
		return false
	}
	hub := mark.Get("hub")
	return hub.Type == gjson.String && hub.Str != ""
}
