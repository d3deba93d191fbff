// A receiver of callbacks. It needs Go 1.18 or later and no modules.
//
//	WEBHOOK_SECRETS='whsec_...' go run receiver.go
//
// WEBHOOK_SECRETS: one or more secrets (whsec_) or public keys (whpk_), separated by spaces.
// PORT: the port on loopback, 8001 by default; 0 takes a free one.
// INBOX: the folder that stores each callback once, as ID.json; "inbox" by default.
package main

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
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
	maxBody   = 64 << 10 // bytes
)

var (
	errHeader    = errors.New("a header is missing or malformed")
	errTime      = errors.New("the timestamp is more than five minutes off")
	errSignature = errors.New("no signature matches")
	errName      = errors.New("the id is not a valid file name")

	fileName = regexp.MustCompile(`^[0-9A-Za-z_-]{1,100}$`)
)

// A key checks a signature of a content. The version is the signature's prefix.
type key func(version string, signature, content []byte) bool

func readKey(text string) (key, error) {
	kind, rest, _ := strings.Cut(text, "_")
	bytes, err := base64.StdEncoding.DecodeString(rest)
	switch {
	case err == nil && kind == "whsec":
		return func(version string, signature, content []byte) bool {
			mac := hmac.New(sha256.New, bytes)
			mac.Write(content)
			// In constant time: a comparison that stops early reveals how much of a guess is right.
			return version == "v1" && hmac.Equal(mac.Sum(nil), signature)
		}, nil
	case err == nil && kind == "whpk" && len(bytes) == ed25519.PublicKeySize:
		return func(version string, signature, content []byte) bool {
			return version == "v1a" && ed25519.Verify(bytes, content, signature)
		}, nil
	}
	return nil, errors.New("WEBHOOK_SECRETS: expected whsec_ or whpk_, followed by base64")
}

// verify returns the callback's id. The body is the raw request body.
func verify(keys []key, header http.Header, body []byte) (string, error) {
	id, timestamp := header.Get("webhook-id"), header.Get("webhook-timestamp")
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if id == "" || err != nil {
		return "", errHeader
	}
	if age := time.Since(time.Unix(seconds, 0)); age > tolerance || age < -tolerance {
		return "", errTime
	}
	content := append([]byte(id+"."+timestamp+"."), body...)
	for _, one := range strings.Split(header.Get("webhook-signature"), " ") {
		version, encoded, _ := strings.Cut(one, ",")
		signature, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			continue
		}
		for _, isRight := range keys {
			if isRight(version, signature, content) {
				return id, nil
			}
		}
	}
	return "", errSignature
}

// keep stores the body durably, once. It returns false for a repeat.
func keep(inbox, id string, body []byte) (bool, error) {
	if !fileName.MatchString(id) {
		return false, errName
	}
	file, err := os.CreateTemp(inbox, ".draft")
	if err != nil {
		return false, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if _, err := file.Write(body); err != nil {
		return false, err
	}
	if err := file.Sync(); err != nil {
		return false, err
	}
	// A link is atomic and fails if the name exists: a crash leaves no partial file, and of two
	// concurrent repeats only one is new.
	err = os.Link(file.Name(), filepath.Join(inbox, id+".json"))
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

func receive(keys []key, inbox string) http.HandlerFunc {
	return func(answer http.ResponseWriter, request *http.Request) {
		if request.Method != http.MethodPost {
			answer.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(answer, request.Body, maxBody))
		if err != nil {
			answer.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		id, err := verify(keys, request.Header, body)
		if err != nil {
			fmt.Println("refused:", err)
			answer.WriteHeader(http.StatusUnauthorized)
			return
		}
		isNew, err := keep(inbox, id, body)
		if err != nil {
			log.Print(err)
			answer.WriteHeader(http.StatusInternalServerError) // the worker retries
			return
		}
		if isNew {
			fmt.Println("accepted", id)
		} else {
			fmt.Println("repeated", id)
		}
		// Process the callback later, from the inbox: a late answer means a retry.
		answer.WriteHeader(http.StatusNoContent)
	}
}

func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func main() {
	var keys []key
	for _, text := range strings.Fields(os.Getenv("WEBHOOK_SECRETS")) {
		key, err := readKey(text)
		if err != nil {
			log.Fatal(err)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		log.Fatal("WEBHOOK_SECRETS: not set")
	}
	inbox := setting("INBOX", "inbox")
	if err := os.MkdirAll(inbox, 0o755); err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", setting("PORT", "8001")))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listening at http://%s/webhook\n", listener.Addr())
	http.Handle("/webhook", receive(keys, inbox))
	server := &http.Server{ReadTimeout: 10 * time.Second}
	log.Fatal(server.Serve(listener))
}
