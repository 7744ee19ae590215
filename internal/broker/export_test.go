package broker

// Shares is how many owners have a share of something.
func (b *Broker) Shares() int {
	b.shares.mu.Lock()
	defer b.shares.mu.Unlock()
	return len(b.shares.byOwner)
}
