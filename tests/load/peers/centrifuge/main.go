// A server on centrifuge, the library that Centrifugo is made of, with Centrifugo's parts that matter here: JWT, channels
// through the Redis broker, client-side publishing, its JSON protocol. For machines where no `centrifugo` is at hand.
// In: PORT, REDIS_PORT, SECRET. Nothing is stored: a publication that somebody misses is gone.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"

	"github.com/centrifugal/centrifuge"
	"github.com/golang-jwt/jwt/v5"
)

func main() {
	node, err := centrifuge.New(centrifuge.Config{})
	check(err)
	redis := centrifuge.RedisShardConfig{Address: "127.0.0.1:" + os.Getenv("REDIS_PORT")}
	shard, err := centrifuge.NewRedisShard(node, redis)
	check(err)
	broker, err := centrifuge.NewRedisBroker(node, centrifuge.RedisBrokerConfig{Shards: []*centrifuge.RedisShard{shard}})
	check(err)
	node.SetBroker(broker)
	presence, err := centrifuge.NewRedisPresenceManager(
		node, centrifuge.RedisPresenceManagerConfig{Shards: []*centrifuge.RedisShard{shard}})
	check(err)
	node.SetPresenceManager(presence)

	secret := []byte(os.Getenv("SECRET"))
	node.OnConnecting(func(_ context.Context, event centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		claims := jwt.RegisteredClaims{}
		key := func(*jwt.Token) (any, error) { return secret, nil }
		if _, err := jwt.ParseWithClaims(event.Token, &claims, key, jwt.WithValidMethods([]string{"HS256"})); err != nil {
			return centrifuge.ConnectReply{}, centrifuge.DisconnectInvalidToken
		}
		return centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{UserID: claims.Subject}}, nil
	})
	node.OnConnect(func(client *centrifuge.Client) {
		client.OnSubscribe(func(_ centrifuge.SubscribeEvent, answer centrifuge.SubscribeCallback) {
			options := centrifuge.SubscribeOptions{EmitPresence: true, EmitJoinLeave: true, PushJoinLeave: true}
			answer(centrifuge.SubscribeReply{Options: options}, nil)
		})
		client.OnPublish(func(_ centrifuge.PublishEvent, answer centrifuge.PublishCallback) {
			answer(centrifuge.PublishReply{}, nil)
		})
	})
	check(node.Run())

	http.Handle("/connection/websocket", centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{
		CheckOrigin:     func(*http.Request) bool { return true },
		ReadBufferSize:  1024,
		WriteBufferSize: 1024,
	}))
	check(http.ListenAndServe(fmt.Sprintf("127.0.0.1:%s", os.Getenv("PORT")), nil))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
