// An endpoint of an HTTP handler: it counts words. It needs Go 1.18 or later and no modules.
//
//	HANDLER_SECRETS='whsec_...' go run handler.go
//
// HANDLER_SECRETS: one or more secrets, separated by spaces: the handler's `secret`.
// PORT: the port on loopback, 9100 by default; 0 takes a free one.
// RESULTS: the folder that stores each result once, as ID.json; "results" by default.
// WORK_SECONDS: how long the work takes, 2 by default.
package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	tolerance = 5 * time.Minute
	maxBody   = 256 << 10 // bytes: the handler's `max_payload`
)

var (
	errHeader    = errors.New("a header is missing or malformed")
	errKey       = errors.New("the idempotency key is not the signed id")
	errTime      = errors.New("the timestamp is more than five minutes off")
	errSignature = errors.New("no signature matches")

	// No attempt could work on the payload.
	errPayload = errors.New(`expected {"text": "..."}`)

	requestID = regexp.MustCompile(`^[0-9a-f-]{36}$`)
)

type endpoint struct {
	secrets  [][]byte
	results  string
	duration time.Duration
}

func readSecret(text string) ([]byte, error) {
	if !strings.HasPrefix(text, "whsec_") {
		return nil, errors.New("HANDLER_SECRETS: every secret begins with whsec_")
	}
	return base64.StdEncoding.DecodeString(strings.TrimPrefix(text, "whsec_"))
}

// verify returns the request's id. The body is the raw request body.
func verify(secrets [][]byte, header http.Header, body []byte) (string, error) {
	id, timestamp := header.Get("webhook-id"), header.Get("webhook-timestamp")
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil {
		return "", errHeader
	}
	// The signature covers webhook-id, and not idempotency-key. It also becomes a file's name.
	if header.Get("idempotency-key") != id || !requestID.MatchString(id) {
		return "", errKey
	}
	if age := time.Since(time.Unix(seconds, 0)); age > tolerance || age < -tolerance {
		return "", errTime
	}
	content := append([]byte(id+"."+timestamp+"."), body...)
	for _, one := range strings.Split(header.Get("webhook-signature"), " ") {
		version, encoded, _ := strings.Cut(one, ",")
		signature, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil || version != "v1" {
			continue
		}
		for _, secret := range secrets {
			mac := hmac.New(sha256.New, secret)
			mac.Write(content)
			// In constant time: a comparison that stops early reveals how much of a guess is right.
			if hmac.Equal(mac.Sum(nil), signature) {
				return id, nil
			}
		}
	}
	return "", errSignature
}

// work takes its time, and ends with the attempt: the worker then closes the connection.
func (e *endpoint) work(attempt context.Context, body []byte) ([]byte, error) {
	var payload struct {
		Text *string `json:"text"`
	}
	if json.Unmarshal(body, &payload) != nil || payload.Text == nil {
		return nil, errPayload
	}
	select {
	case <-time.After(e.duration):
	case <-attempt.Done():
		return nil, attempt.Err()
	}
	return json.Marshal(map[string]int{"words": len(strings.Fields(*payload.Text))})
}

// keep stores the result durably. It returns false if there is one: the first one stays.
func (e *endpoint) keep(path string, result []byte) (bool, error) {
	file, err := os.CreateTemp(e.results, ".draft")
	if err != nil {
		return false, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if _, err := file.Write(result); err != nil {
		return false, err
	}
	if err := file.Sync(); err != nil {
		return false, err
	}
	// A link is atomic and fails if the name exists: a crash leaves no partial file.
	err = os.Link(file.Name(), path)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

// doOnce does the work, unless its result is stored.
//
// Two attempts at the same moment can both work; one result stays. If yours must not, lock the key
// first: insert it into a table where it is unique, in the transaction that does the work.
func (e *endpoint) doOnce(attempt context.Context, key string, body []byte) ([]byte, error) {
	path := filepath.Join(e.results, key+".json")
	isNew := false
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		result, err := e.work(attempt, body)
		if err != nil {
			return nil, err
		}
		if isNew, err = e.keep(path, result); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	if isNew {
		fmt.Println("done", key)
	} else {
		fmt.Println("repeated", key)
	}
	return os.ReadFile(path)
}

func (e *endpoint) ServeHTTP(answer http.ResponseWriter, request *http.Request) {
	if request.Method != http.MethodPost {
		http.Error(answer, "expected POST", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(answer, request.Body, maxBody))
	if err != nil {
		http.Error(answer, "the payload is too large", http.StatusRequestEntityTooLarge)
		return
	}
	key, err := verify(e.secrets, request.Header, body)
	if err != nil {
		fmt.Println("refused:", err)
		http.Error(answer, "not authentic", http.StatusUnauthorized)
		return
	}
	result, err := e.doOnce(request.Context(), key, body)
	switch {
	case errors.Is(err, errPayload):
		http.Error(answer, err.Error(), http.StatusUnprocessableEntity)
	case err != nil:
		log.Print(err)
		answer.WriteHeader(http.StatusInternalServerError) // the worker retries
	default:
		answer.Header().Set("content-type", "application/json")
		answer.Write(result)
	}
}

func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func main() {
	e := &endpoint{results: setting("RESULTS", "results")}
	for _, text := range strings.Fields(os.Getenv("HANDLER_SECRETS")) {
		secret, err := readSecret(text)
		if err != nil {
			log.Fatal(err)
		}
		e.secrets = append(e.secrets, secret)
	}
	if len(e.secrets) == 0 {
		log.Fatal("HANDLER_SECRETS: not set")
	}
	seconds, err := strconv.ParseFloat(setting("WORK_SECONDS", "2"), 64)
	if err != nil {
		log.Fatal(err)
	}
	e.duration = time.Duration(seconds * float64(time.Second))
	if err := os.MkdirAll(e.results, 0o755); err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", setting("PORT", "9100")))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listening at http://%s/\n", listener.Addr())
	server := &http.Server{Handler: e, ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.Serve(listener))
}
