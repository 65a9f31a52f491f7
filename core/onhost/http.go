//go:build linux

package onhost

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"time"
)

const maxHTTP = 16 << 20

// httpVerb asks a server, most often the node's RPC on this very host: a POST of JSON, or a GET
// when there is no body. The answer's body goes to standard output. It exits with 0 on status
// 200, 3 on any other (redirects are not followed), 1 when there was no whole answer.
func httpVerb(c *call) error {
	fl := flag.NewFlagSet("http", flag.ContinueOnError)
	fl.SetOutput(c.stderr)
	body := fl.String("body", "", "JSON to post; without it, standard input")
	timeout := fl.Duration("timeout", 30*time.Second, "for all of it")
	rest, err := mixed(fl, c.args)
	if err != nil {
		return err
	}
	if len(rest) != 1 {
		return usagef("http wants one URL")
	}
	in := []byte(*body)
	if *body == "" {
		if in, err = readAtMost(c.stdin, maxHTTP); err != nil {
			return fmt.Errorf("read standard input: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	return ask(ctx, c, rest[0], bytes.TrimSpace(in))
}

func ask(ctx context.Context, c *call, url string, in []byte) error {
	method := http.MethodGet
	if len(in) > 0 {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(in))
	if err != nil {
		return usagef("%v", err)
	}
	if len(in) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("User-Agent", "snapfw")
	client := http.Client{
		Transport:     &http.Transport{}, // no proxy: what is asked is near
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	out, err := readAtMost(resp.Body, maxHTTP)
	if err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	if _, err := c.stdout.Write(out); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return refusef("%s answered %s", url, resp.Status)
	}
	return nil
}

func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		return nil, fmt.Errorf("more than %d MiB", limit>>20)
	}
	return b, err
}
