"""Users and tokens over HTTP: an admin's business, but for what users may know of themselves."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from copper.controller.access import Asking, allow
from copper.controller.api.answers import problems
from copper.controller.api.front import JSON, Front
from copper.controller.pages import Listing, Page
from copper.controller.replies import SECRET
from copper.model.errors import Conflict, NotFound
from copper.model.users import (
    IssuedToken,
    NewToken,
    NewUser,
    Principal,
    Token,
    User,
    UserChange,
)

_users = Listing(User, lambda user: user.name)
_tokens = Listing(Token, lambda token: token.id)


def routes(front: Front) -> APIRouter:
    """/v1/whoami, and /v1/users and all below."""
    users = front.users
    router = APIRouter(prefix="/v1", tags=["users"], route_class=front.replies.route_class())
    both, admin = [allow("admin", "user")], [allow("admin")]

    @router.get(
        "/whoami",
        dependencies=both,
        operation_id="whoami",
        summary="Who asks, as Copper knows it",
        response_model=Principal,
    )
    async def whoami(who: Asking) -> Response:
        return Response(who.model_dump_json(), media_type=JSON)

    @router.get(
        "/users",
        dependencies=admin,
        operation_id="list_users",
        summary="The users",
        response_model=list[User],
    )
    async def list_users(request: Request, chosen: Annotated[Page, Query()]) -> Response:
        return _users.by_name(users.all(), chosen, request)

    @router.post(
        "/users",
        status_code=201,
        dependencies=admin,
        operation_id="create_user",
        summary="Makes a user",
        response_model=User,
        responses=problems(Conflict),
    )
    async def create_user(new: NewUser) -> Response:
        return Response((await users.create(new)).model_dump_json(), 201, media_type=JSON)

    @router.get(
        "/users/{name}",
        dependencies=both,
        operation_id="show_user",
        summary="One user; users may ask for themselves",
        response_model=User,
        responses=problems(NotFound),
    )
    async def show_user(name: str, who: Asking) -> Response:
        _check_self(who, name)
        return Response(users.show(name).model_dump_json(), media_type=JSON)

    @router.patch(
        "/users/{name}",
        dependencies=admin,
        operation_id="change_user",
        summary="Sets a user's role or quota",
        response_model=User,
        responses=problems(NotFound, Conflict),
    )
    async def change_user(name: str, change: UserChange) -> Response:
        return Response((await users.change(name, change)).model_dump_json(), media_type=JSON)

    @router.delete(
        "/users/{name}",
        status_code=204,
        dependencies=admin,
        operation_id="delete_user",
        summary="Ends a user and all its tokens; it may own no virtual cluster",
        responses=problems(NotFound, Conflict),
    )
    async def delete_user(name: str) -> Response:
        await users.delete(name)
        await front.replies.forget(name)
        return Response(status_code=204)

    @router.get(
        "/users/{name}/tokens",
        dependencies=both,
        operation_id="list_tokens",
        summary="A user's tokens, without their secrets; users may ask for their own",
        response_model=list[Token],
        responses=problems(NotFound),
    )
    async def list_tokens(
        name: str, request: Request, who: Asking, chosen: Annotated[Page, Query()]
    ) -> Response:
        _check_self(who, name)
        return _tokens.by_name(users.tokens(name), chosen, request)

    @router.post(
        "/users/{name}/tokens",
        status_code=201,
        dependencies=admin,
        operation_id="create_token",
        summary="Issues a token; the answer is the only one that has its secret",
        response_model=IssuedToken,
        responses=problems(NotFound, Conflict),
    )
    async def create_token(name: str, new: NewToken, request: Request) -> Response:
        token = await users.issue(name, new)
        request.scope[SECRET] = True
        headers = {"cache-control": "no-store"}
        return Response(token.model_dump_json(), 201, headers, media_type=JSON)

    @router.delete(
        "/users/{name}/tokens/{id}",
        status_code=204,
        dependencies=both,
        operation_id="revoke_token",
        summary="Ends a token at once; users may end their own",
        responses=problems(NotFound),
    )
    async def revoke_token(name: str, id: str, who: Asking) -> Response:
        _check_self(who, name)
        await users.revoke(name, id)
        return Response(status_code=204)

    return router


def _check_self(who: Principal, name: str) -> None:
    """Other users are not there for a user. Raises NotFound."""
    if not who.sees_all and name != who.name:
        raise NotFound(f"there is no user {name!r:.60}", advice="copper user list shows all")
