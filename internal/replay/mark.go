package replay

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"signalbox/internal/store"
)

// Mark says of a message that it is played from the past: by which replay of which hub. It
// stands under wire.ReplayMember.
type Mark struct {
	ID  string `json:"id" doc:"The replay."`
	Hub string `json:"hub" doc:"The instance of the hub that plays it."`
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
