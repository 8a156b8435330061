package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"lighter/internal/api"
	"lighter/internal/jsonerror"
	"lighter/internal/stream"
)

// body.go is the one gate for what clients say in bodies: it bounds them before memory is
// taken for them.

// Limits on bodies.
const (
	// maxBody bounds the body of a submission, in bytes: 10,000 requests of some KB.
	maxBody = 64 << 20
	// maxSelectionBody bounds a selection: maxCancel ids of 36 digits with what is around
	// them.
	maxSelectionBody = 8 << 20
	// maxNeededBody bounds store.GCBatch paths.
	maxNeededBody = 512 << 10
	// maxSmallBody bounds all other bodies, and what is in a body besides its list: a filter
	// with many tags is the largest.
	maxSmallBody = 256 << 10
	// bodyPatience is how long a body may take to come, and answerPatience how long a client
	// may take to read an answer that is not a stream. Both go over a Unix socket.
	bodyPatience   = time.Minute
	answerPatience = time.Minute
)

// Memory that requests take while they are worked on.
const (
	// userMemory bounds that of one user, in bytes; then the next one waits.
	userMemory = 256 << 20
	// requestMemory is that of any request, pageMemory that of one for a page of builds.
	requestMemory = 64 << 10
	pageMemory    = 4 * maxPageBytes
	// bodyMemory is how many times as large as its body a request is when it is decoded.
	bodyMemory = 3
)

// memory bounds what the requests of each user take, so that a user who asks for much makes no other
// else wait.
type memory struct {
	mu    sync.Mutex
	users map[uint32]*share
}

type share struct {
	*semaphore.Weighted
	holders int // that have some of it, or wait for it
}

func newMemory() *memory { return &memory{users: make(map[uint32]*share)} }

// acquire waits until a user may have n bytes, and returns what gives them back.
func (m *memory) acquire(ctx context.Context, uid uint32, n int64) (release func(), err error) {
	m.mu.Lock()
	s := m.users[uid]
	if s == nil {
		s = &share{Weighted: semaphore.NewWeighted(userMemory)}
		m.users[uid] = s
	}
	s.holders++
	m.mu.Unlock()
	leave := func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if s.holders--; s.holders == 0 {
			delete(m.users, uid)
		}
	}
	n = min(n, userMemory)
	if s.Acquire(ctx, n) != nil {
		leave()
		return nil, context.Cause(ctx)
	}
	return func() {
		s.Release(n)
		leave()
	}, nil
}

// boundBody bounds a request's body in size and time. The time ends with the body: a client
// that has said everything may wait forever.
func boundBody(w http.ResponseWriter, r *http.Request, most int64) {
	if r.Body == nil || r.Body == http.NoBody {
		return
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyPatience)) // which not every test's writer can
	r.Body = &timedBody{http.MaxBytesReader(w, r.Body, most), rc}
}

type timedBody struct {
	io.ReadCloser
	rc *http.ResponseController
}

func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		_ = b.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

// list is a field of a body that is a list: each is called for one element after the other,
// before the next one is read.
type list struct {
	field string
	most  int // elements
	each  func(d *json.Decoder) error

	given bool // the body has it
	n     int  // elements that were read
}

// readJSON reads a body that is one JSON object with known fields. An empty body leaves v
// as it is.
func readJSON(r *http.Request, v any) error { return readLists(r, v) }

// readLists is readJSON, but for fields that are lists: their elements are read one by one,
// and bounded before there is memory for them. All else in the body goes to v.
func readLists(r *http.Request, v any, lists ...*list) error {
	in := &stream.Allowance{R: r.Body, Left: maxSmallBody, TooMuch: errTooMuch}
	d := json.NewDecoder(in)
	d.DisallowUnknownFields()
	switch start, err := d.Token(); {
	case err == io.EOF:
		return nil
	case err != nil:
		return bodyError(err)
	case start != json.Delim('{'):
		return api.BadRequest("body: want a JSON object")
	}
	rest, err := readFields(d, in, lists)
	if err != nil {
		return bodyError(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = errors.New("there is more than one JSON value")
		}
		return bodyError(err)
	}
	d = json.NewDecoder(bytes.NewReader(rest))
	d.DisallowUnknownFields()
	return bodyError(d.Decode(v))
}

// readFields reads the fields of an object that has begun. It returns those that are not
// lists as an object of their own.
func readFields(d *json.Decoder, in *stream.Allowance, lists []*list) ([]byte, error) {
	rest := []byte{'{'}
	for in.Left = maxSmallBody; d.More(); in.Left = maxSmallBody {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		if l := listOf(lists, name); l != nil {
			if err := l.read(d, in); err != nil {
				return nil, err
			}
			continue
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, err
		}
		key, err := json.Marshal(name)
		if err != nil {
			return nil, err
		}
		if len(rest) > 1 {
			rest = append(rest, ',')
		}
		rest = append(append(append(rest, key...), ':'), value...)
		if len(rest) > maxSmallBody {
			return nil, errTooMuch
		}
	}
	_, err := d.Token() // the end of the object
	return append(rest, '}'), err
}

// idList is a list of ids.
func idList(most int, ids *[]string) *list {
	return &list{field: "ids", most: most, each: func(d *json.Decoder) error {
		var id string
		if err := d.Decode(&id); err != nil {
			return err
		}
		*ids = append(*ids, id)
		return api.CheckText("id", id, api.MaxID)
	}}
}

func listOf(lists []*list, name json.Token) *list {
	for _, l := range lists {
		if name == l.field {
			return l
		}
	}
	return nil
}

func (l *list) read(d *json.Decoder, in *stream.Allowance) error {
	l.given = true
	switch start, err := d.Token(); {
	case err != nil:
		return err
	case start == nil:
		return nil // null is none
	case start != json.Delim('['):
		return fmt.Errorf("%s: want a list", l.field)
	}
	for in.Left = maxSmallBody; d.More(); in.Left = maxSmallBody {
		if l.n == l.most {
			return fmt.Errorf("%s: at most %d are taken", l.field, l.most)
		}
		if err := l.each(d); err != nil {
			return fmt.Errorf("%s[%d]: %w", l.field, l.n, jsonerror.Explain(err))
		}
		l.n++
	}
	_, err := d.Token() // the end of the list
	return err
}

// errTooMuch says that an allowance is used up.
var errTooMuch = fmt.Errorf("more than %d bytes in one value", maxSmallBody)

// bodyError turns what is wrong with a body into what the client is told.
func bodyError(err error) error {
	var tooLarge *http.MaxBytesError
	var refused *api.Error
	switch {
	case err == nil, errors.As(err, &tooLarge), errors.As(err, &refused):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &api.Error{Status: http.StatusRequestTimeout, Code: api.CodeBadRequest, Message: fmt.Sprintf("the body did not come within %v", bodyPatience)}
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return api.BadRequest("body: %v", jsonerror.Explain(err))
}
