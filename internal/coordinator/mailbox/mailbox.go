// Package mailbox passes values between goroutines without making a sender wait.
package mailbox

import "sync"

// Mailbox passes values to one receiver, in order, and never makes a sender wait.
type Mailbox[T any] struct {
	mu     sync.Mutex
	mail   []T
	signal chan struct{} // has room for one; filled when mail becomes not empty
}

// New returns an empty mailbox.
func New[T any]() *Mailbox[T] { return &Mailbox[T]{signal: make(chan struct{}, 1)} }

// Put puts values that are taken together.
func (m *Mailbox[T]) Put(v ...T) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mail = append(m.mail, v...)
	Signal(m.signal)
}

// Ready is readable when there may be mail.
func (m *Mailbox[T]) Ready() <-chan struct{} { return m.signal }

// Take returns all the mail.
func (m *Mailbox[T]) Take() []T {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.mail
	m.mail = nil
	return all
}

// Signal fills a channel that has room for one.
func Signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
