package coordinator

import "sync"

// mailbox passes values to one receiver, in order, and never makes a sender wait.
type mailbox[T any] struct {
	mu     sync.Mutex
	mail   []T
	signal chan struct{} // has room for one; filled when mail becomes not empty
}

func newMailbox[T any]() *mailbox[T] { return &mailbox[T]{signal: make(chan struct{}, 1)} }

// put puts values that are taken together.
func (m *mailbox[T]) put(v ...T) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mail = append(m.mail, v...)
	signal(m.signal)
}

// ready is readable when there may be mail.
func (m *mailbox[T]) ready() <-chan struct{} { return m.signal }

// take returns all the mail.
func (m *mailbox[T]) take() []T {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.mail
	m.mail = nil
	return all
}
