package replay

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/store"
)

// Mark says of a message that it is played from the past: by which replay of which hub.
type Mark struct {
	ID  string `json:"id" doc:"The replay."`
	Hub string `json:"hub" doc:"The instance of the hub that plays it."`
}

// MarkMember is the member of a JSON message that holds its Mark.
const MarkMember = "replay"

// Marked reports whether the JSON object body is a message of a replay: it has the member
// replay, spelt so, which is an object with a text under hub. A hub refuses such messages,
// its own and those of others, so that the past is not stored as the present.
func Marked(body []byte) bool {
	if !bytes.Contains(body, []byte(`"`+MarkMember+`"`)) {
		return false
	}
	mark := gjson.GetBytes(body, MarkMember)
	if !mark.IsObject() {
		return false
	}
	hub := mark.Get("hub")
	return hub.Type == gjson.String && hub.Str != ""
}

// Refuse gives the error for a message that is Marked, nil for others.
func Refuse(body []byte) error {
	if !Marked(body) {
		return nil
	}
	return signalbox.Errorf(signalbox.KindInvalid, "replayed", "the message is played from the past (it has the member %s with a hub); a hub does not store such messages", MarkMember)
}

const (
	instanceName  = "instance_id"
	instanceBytes = 16
	idBytes       = 6
)

// InstanceID gives the hub's own mark, random and kept in st; it makes it when there is none.
func InstanceID(ctx context.Context, st *store.Store) (string, error) {
	id, err := st.Meta(ctx, instanceName)
	if err != nil || id != "" {
		return id, err
	}
	id = random(instanceBytes)
	if err := st.Update(ctx, func(tx *store.Tx) error { return tx.SetMeta(ctx, instanceName, id) }); err != nil {
		return "", fmt.Errorf("store the hub's instance: %w", err)
	}
	return id, nil
}

func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
