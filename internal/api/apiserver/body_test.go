package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestReadLists(t *testing.T) {
	type rest struct {
		A int
		B string
	}
	for _, test := range []struct{ body, want string }{
		{``, "0  []"},
		{`{}`, "0  []"},
		{`{"A":1,"list":[1,2],"B":"x"}`, "1 x [1 2]"},
		{`{"list":null,"A":1}`, "1  []"},
		{` { "list" : [ 1 , 2 ] , "A" : 1 } `, "1  [1 2]"},
		{`{"list":[]}`, "0  []"},
		{`{"list":[1,2,3,4]}`, "body: list: at most 3 are taken"},
		{`{"list":[1,2],"list":[3,4]}`, "body: list: at most 3 are taken"},
		{`{"list":{}}`, "body: list: want a list"},
		{`{"list":["x"]}`, "body: list[0]: found text, want a whole number"},
		{`{"list":[1`, "body: the JSON ends too early"},
		{`{"C":1}`, `body: unknown field "C"`},
		{`{"A":"x"}`, `body: "A": found text, want a whole number`},
		{`{"A":1}{}`, "body: there is more than one JSON value"},
		{`{"A":1} x`, "body: found 'x', want a value: text in quotes, a number, true, false, null, [ or {"},
		{`[]`, "body: want a JSON object"},
		{`1`, "body: want a JSON object"},
		{`null`, "body: want a JSON object"},
		{`{"A":1`, "body: the JSON ends too early"},
		{`{"A"`, "body: the JSON ends too early"},
		{`{`, "body: the JSON ends too early"},
	} {
		var v rest
		var numbers []int
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(test.body))
		err := readLists(r, &v, &list{field: "list", most: 3, each: func(d *json.Decoder) error {
			var n int
			if err := d.Decode(&n); err != nil {
				return err
			}
			numbers = append(numbers, n)
			return nil
		}})
		got := fmt.Sprint(v.A, " ", v.B, " ", numbers)
		if err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s: got %q, want %q", test.body, got, test.want)
		}
	}
}

// TestElementAtTheLimit has elements whose ends fall on the end of what may be read.
func TestElementAtTheLimit(t *testing.T) {
	for size := maxSmallBody/2 - 3; size < maxSmallBody/2+3; size++ {
		element := `"` + strings.Repeat("x", size-2) + `"`
		var ids []string
		l := &list{field: "ids", most: 3, each: func(d *json.Decoder) error {
			var id string
			err := d.Decode(&id)
			ids = append(ids, id)
			return err
		}}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(`{"ids":[`+strings.Join([]string{element, element, element}, ",")+`]}`))
		if err := readLists(r, &struct{}{}, l); err != nil || len(ids) != 3 {
			t.Errorf("elements of %d bytes: %d of them, %v", size, len(ids), err)
		}
	}
}

func TestMemoryIsShared(t *testing.T) {
	m := newMemory()
	ctx := t.Context()
	all, err := m.acquire(ctx, 5, 10*userMemory) // as much as there is
	if err != nil {
		t.Fatal(err)
	}
	// Another user has as much, and this one waits.
	other, err := m.acquire(ctx, 6, userMemory)
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := m.acquire(gone, 5, 1); err == nil {
		t.Error("a user has more than there is")
	}
	all()
	again, err := m.acquire(ctx, 5, userMemory)
	if err != nil {
		t.Fatal(err)
	}
	again()
	other()
	if len(m.users) > 0 {
		t.Errorf("%d users are remembered", len(m.users))
	}
}
