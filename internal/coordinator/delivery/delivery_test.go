package delivery

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/hookapi"
)

// TestIdleConversation: a hook that says nothing, or half of something, is not
// listened to for ever.
func TestIdleConversation(t *testing.T) {
	for _, said := range []string{"", "a\x00", "b\x00\x00\xff\xff{"} {
		synctest.Test(t, func(t *testing.T) {
			hook, conn := net.Pipe()
			defer hook.Close()
			ended := make(chan error, 1)
			go func() {
				_, _, err := new(Config).Converse(t.Context(), conn, hookapi.NewReader(conn), nil)
				ended <- err
			}()
			if _, err := io.WriteString(hook, said); err != nil {
				t.Fatal(err)
			}
			time.Sleep(questionPause - time.Second)
			synctest.Wait()
			if len(ended) > 0 {
				t.Errorf("after %q: it ended early: %v", said, <-ended)
				return
			}
			time.Sleep(2 * time.Second)
			if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("after %q: got %v", said, err)
			}
		})
	}
}
