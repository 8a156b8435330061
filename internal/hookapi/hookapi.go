// Package hookapi is the conversation between the build hook, which guix-daemon
// starts for a build, and the coordinator.
//
// The hook asks for it with an HTTP/1.1 request on the coordinator's socket,
//
//	GET /v1/offload HTTP/1.1
//	Connection: Upgrade
//	Upgrade: lighter-offload/1
//
// and after the answer 101 both sides send frames: one byte that says what it is, four
// bytes of length, big-endian, and that many bytes. The hook sends any number of Ask,
// each answered with a Reply, and then at most one Build. From there on the coordinator
// sends State and Log frames; for each try to hand the outputs over a Transfer and the
// archive in Archive frames and an End, which the hook answers with a Delivered; and
// Final, the last one. The build is wanted for as long as the conversation lasts. A
// coordinator that has nothing to say repeats its last State, see [Order.AliveEvery].
//
// Neither side believes the other: anyone who may write to the socket can be the hook, and
// the hook has guix-daemon's rights, which the coordinator does not have. So whatever a frame
// says is bounded before it is allocated, and checked by [Decode].
//
// The package uses no net/http, so that the hook starts fast.
package hookapi

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"lighter/internal/api"
	"lighter/internal/disk"
	"lighter/store"
)

// Path and Protocol are those of the request that starts a conversation.
const (
	Path     = "/v1/offload"
	Protocol = "lighter-offload/1"
)

// Kind says what a frame holds.
type Kind byte

// The kinds of frames.
const (
	Ask       Kind = 'a' // hook: a Question
	Build     Kind = 'b' // hook: an Order
	Delivered Kind = 'd' // hook: a Receipt
	Reply     Kind = 'r' // coordinator: an Answer
	State     Kind = 's' // coordinator: a Progress
	Log       Kind = 'l' // coordinator: bytes of the build's log
	Transfer  Kind = 't' // coordinator: a Shipment; what came of an earlier one is void
	Archive   Kind = 'c' // coordinator: bytes of the shipment's archive
	End       Kind = 'e' // coordinator: nothing; that was all of the archive
	Final     Kind = 'f' // coordinator: a Result
)

// MaxFrame bounds a frame's length, in bytes. The longest is an Order, which lists the
// closure of a build's inputs: room for some 200,000, ten times what a large package has.
const MaxFrame = 16 << 20

// MaxChunk is how long Log and Archive frames are at most, in bytes.
const MaxChunk = 256 << 10

// Question asks whether a build may be offloaded.
type Question struct {
	Derivation store.Path `json:"derivation"`
	System     string     `json:"system"`
	Features   []string   `json:"features,omitempty"`
	// WantsLocal says that guix-daemon has a free slot of its own.
	WantsLocal bool `json:"wantsLocal,omitempty"`
}

// Answer is what the hook tells guix-daemon.
type Answer struct {
	Verdict string `json:"verdict"`
	Reason  string `json:"reason,omitempty"` // for people; may be empty with Accept
}

// The verdicts, in guix-daemon's words.
const (
	Accept   = "accept"
	Decline  = "decline"
	Postpone = "postpone"
)

// Order has a build done that was accepted. Given again with the same id, after the
// conversation broke off, it is about the same build.
type Order struct {
	ID         string     `json:"id"` // UUID, and what it was made of: see NewID
	Secret     string     `json:"secret,omitempty"`
	Derivation store.Path `json:"derivation"`
	// Inputs are those of the closures of the derivation and of its inputs that an order
	// has room for, see SetInputs: a hint, what the coordinator will want to know of.
	Inputs        []store.Path `json:"inputs"`
	Outputs       []store.Path `json:"outputs"` // that are to be delivered
	Timeout       api.Seconds  `json:"timeout,omitempty"`
	MaxSilentTime api.Seconds  `json:"maxSilentTime,omitempty"`
	// Client is the number of the user behind the client of guix-daemon; nil if the hook could not
	// tell.
	Client *uint32 `json:"client,omitempty"`
	// LogAttempt and LogOffset say how much of which attempt's log the hook has, in bytes.
	LogAttempt int   `json:"logAttempt,omitempty"`
	LogOffset  int64 `json:"logOffset,omitempty"`
}

// Progress says where the build stands.
type Progress struct {
	State   api.State `json:"state"`
	Attempt int       `json:"attempt,omitempty"`
	Machine string    `json:"machine,omitempty"`
	Reason  string    `json:"reason,omitempty"`
}

// Shipment announces an archive of outputs.
type Shipment struct {
	Number  int    `json:"number"` // counts from 1 in a conversation
	Machine string `json:"machine"`
	Items   int    `json:"items"`
	Bytes   int64  `json:"bytes"` // as NARs
	// NARHashes are those of the items, as the machine said when it had made them.
	NARHashes map[store.Path]store.Hash `json:"narHashes,omitempty"`
}

// Receipt says whether outputs arrived whole and with a good signature.
type Receipt struct {
	Number int `json:"number"` // of the Shipment
	// Error is for people; it is empty if they did.
	Error string `json:"error,omitempty"`
	// Local says that the hook is to blame, because its disk is full for instance, and
	// neither the archive nor the machine that it is from.
	Local bool `json:"local,omitempty"`
}

// Result ends a build.
type Result struct {
	State   api.State    `json:"state"`
	Machine string       `json:"machine,omitempty"`
	Reason  string       `json:"reason,omitempty"`
	Failure *api.Failure `json:"failure,omitempty"`
}

// ErrFrame is matched by the error of a frame that breaks the rules.
var ErrFrame = errors.New("this is not how coordinator and hook talk")

// Reader reads frames.
type Reader struct {
	r   *bufio.Reader
	buf []byte
}

// NewReader returns a reader of frames. It has a small buffer, unless r is a bufio.Reader:
// most conversations say little.
func NewReader(r io.Reader) *Reader { return &Reader{r: bufio.NewReaderSize(r, 4<<10)} }

// Next returns the next frame. The payload is valid until the next call. At the end of
// the stream it returns io.EOF, and in the middle of a frame io.ErrUnexpectedEOF.
func (r *Reader) Next() (Kind, []byte, error) {
	kind, length, err := r.Header()
	if err != nil {
		return 0, nil, err
	}
	payload, err := r.Payload(length)
	if err != nil {
		return 0, nil, err
	}
	return kind, payload, nil
}

// Header is the first half of Next, for who wants to know how long a frame is before
// Payload reads it.
func (r *Reader) Header() (kind Kind, length int, err error) {
	var header [5]byte
	if _, err := io.ReadFull(r.r, header[:]); err != nil {
		return 0, 0, err
	}
	kind, n := Kind(header[0]), binary.BigEndian.Uint32(header[1:])
	if int64(n) > int64(limit(kind)) {
		return 0, 0, fmt.Errorf("%w: a frame %q of %d bytes", ErrFrame, kind, n)
	}
	return kind, int(n), nil
}

// Payload is the second half of Next. Room for a long one is made as its bytes arrive, and
// not kept: a conversation has one such frame and lasts for hours.
func (r *Reader) Payload(length int) ([]byte, error) {
	if length > MaxChunk {
		return r.long(length)
	}
	if length > cap(r.buf) {
		r.buf = make([]byte, max(length, 4<<10))
	}
	return r.buf[:length], r.fill(r.buf[:length])
}

func (r *Reader) long(length int) ([]byte, error) {
	var payload []byte
	for have := 0; have < length; have = len(payload) {
		payload = slices.Grow(payload, min(length-have, max(have, MaxChunk)))
		payload = payload[:min(length, cap(payload))]
		if err := r.fill(payload[have:]); err != nil {
			return nil, err
		}
	}
	return payload, nil
}

// fill reads a part of a payload.
func (r *Reader) fill(p []byte) error {
	_, err := io.ReadFull(r.r, p)
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// limit is the greatest length of a frame of that kind; no other kind has any.
func limit(k Kind) int {
	switch k {
	case Build:
		return MaxFrame
	case Ask, Delivered, Reply, State, Log, Transfer, Archive, Final:
		return MaxChunk
	case End:
		return 0
	}
	return -1
}

// Write writes one frame, with one system call if w is a connection.
func Write(w io.Writer, kind Kind, payload []byte) error {
	if len(payload) > limit(kind) {
		return fmt.Errorf("%w: a frame %q of %d bytes", ErrFrame, kind, len(payload))
	}
	var header [5]byte
	header[0] = byte(kind)
	binary.BigEndian.PutUint32(header[1:], uint32(len(payload))) //nolint:gosec // limit bounds it
	frame := net.Buffers{header[:], payload}
	_, err := frame.WriteTo(w)
	return err
}

// WriteJSON writes a frame that holds v as JSON.
func WriteJSON(w io.Writer, kind Kind, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return Write(w, kind, payload)
}

// handshakeTimeout bounds how long a coordinator may take to take up a conversation.
const handshakeTimeout = 5 * time.Second

// Dial starts a conversation with the coordinator behind a Unix socket. The error of a
// coordinator that isn't there is one of package net.
func Dial(socket string) (net.Conn, *Reader, error) {
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	defer cancel()
	conn, err := disk.DialSocket(ctx, socket)
	if err != nil {
		return nil, nil, err
	}
	r, err := handshake(conn)
	if err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("coordinator at %s: %w", socket, err)
	}
	return conn, r, nil
}

func handshake(conn net.Conn) (*Reader, error) {
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, err
	}
	_, err := io.WriteString(conn, "GET "+Path+" HTTP/1.1\r\nHost: lighter\r\nConnection: Upgrade\r\nUpgrade: "+Protocol+"\r\n\r\n")
	if err != nil {
		return nil, err
	}
	r := NewReader(bufio.NewReaderSize(conn, 64<<10))
	status, err := r.line()
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(status, "HTTP/1.1 101 ") {
		return nil, fmt.Errorf("%w: it answers %.100q", ErrFrame, status)
	}
	for range maxHeaders {
		line, err := r.line()
		if err != nil {
			return nil, err
		}
		if line == "" {
			return r, conn.SetDeadline(time.Time{})
		}
	}
	return nil, fmt.Errorf("%w: more than %d headers", ErrFrame, maxHeaders)
}

const maxHeaders = 64

// line reads one line of a header.
func (r *Reader) line() (string, error) {
	line, err := r.r.ReadSlice('\n')
	switch {
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	case errors.Is(err, bufio.ErrBufferFull):
		return "", fmt.Errorf("%w: it answers with a line of more than %d bytes", ErrFrame, len(line))
	}
	return strings.TrimRight(string(line), "\r\n"), err
}
