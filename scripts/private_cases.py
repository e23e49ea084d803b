"""A constructed set: personal data and secrets of many countries in sentences, and what only looks like them.

Every value is made by code from a seed: card numbers and ids by their check digits, phone numbers from the plans of `phonenumbers`
(so that its recall is measured on numbers that it holds for valid), secrets by their published shapes. Nobody's data is in it.
"""

import base64
import random
import string
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import phonenumbers
from stdnum import iban as iban_rules
from stdnum import luhn


@dataclass(frozen=True)
class Case:
    """A text with at most one value: `kind` is None and `value` empty in one that only looks like it."""

    kind: str | None
    form: str
    text: str
    value: str = ""


PHONE_REGIONS = (
    "US",
    "GB",
    "DE",
    "FR",
    "ES",
    "IT",
    "NL",
    "PL",
    "BR",
    "IN",
    "RU",
    "CN",
    "JP",
    "KR",
    "MX",
    "TR",
    "SE",
    "CH",
)
# a sentence with a word that tells what follows, and one without
PHONE_WORDS = {
    "US": ("Call me at {} after five.", "{} is where you find Ann."), "GB": ("Ring me on {}, please.", "It was {} all along."),
    "DE": ("Meine Telefonnummer ist {}.", "Erreichbar bin ich unter {} bis acht."), "FR": ("Mon téléphone : {}.", "Joignable au {} le soir."),
    "ES": ("Mi teléfono es el {}.", "Estoy en el {} por la tarde."), "IT": ("Il mio numero di telefono è {}.", "Mi trovi al {} la sera."),
    "NL": ("Mijn telefoonnummer is {}.", "Bereikbaar op {} na zessen."), "PL": ("Mój telefon: {}.", "Jestem pod {} wieczorem."),
    "BR": ("Meu telefone é {}.", "Estou no {} à noite."), "IN": ("My mobile number is {}.", "Reach Asha on {} today."),
    "RU": ("Мой телефон: {}.", "Пишите на {} вечером."), "CN": ("我的手机号码是{}。", "请在晚上打{}找我。"),
    "JP": ("電話番号は{}です。", "夜は{}にいます。"), "KR": ("전화번호는 {}입니다.", "저녁에는 {}로 주세요."),
    "MX": ("Mi celular es {}.", "Estoy en {} por la noche."), "TR": ("Telefon numaram {}.", "Akşamları {} burada."),
    "SE": ("Mitt telefonnummer är {}.", "Jag nås på {} efter sex."), "CH": ("Meine Handynummer: {}.", "Ab sechs unter {} da."),
}  # fmt: skip
ID_WORDS = {
    "us.ssn": ("My social security number is {}.", "{} belongs to the applicant."),
    "gb.nhs": ("NHS number: {}.", "The patient with {} was seen."),
    "ca.sin": ("His SIN is {}.", "{} is on the form."),
    "es.dni": ("Mi DNI es {}.", "La titular es {} según la ficha."),
    "it.codicefiscale": ("Codice fiscale: {}.", "La ditta di {} ha firmato."),
    "fr.nir": ("Numéro de sécurité sociale : {}.", "Le dossier {} est complet."),
    "de.idnr": ("Meine Steuer-ID ist {}.", "Der Antrag von {} liegt vor."),
    "nl.bsn": ("Mijn BSN is {}.", "De aanvraag van {} ligt klaar."),
    "be.nn": ("Mijn rijksregisternummer is {}.", "Dossier {} is klaar."),
    "pl.pesel": ("PESEL: {}.", "Wniosek {} przyjęto."),
    "se.personnummer": ("Personnummer: {}.", "Ansökan {} är klar."),
    "fi.hetu": ("Henkilötunnus: {}.", "Hakemus {} on valmis."),
    "br.cpf": ("Meu CPF é {}.", "O cadastro {} está pronto."),
    "mx.curp": ("Mi CURP es {}.", "La solicitud {} está lista."),
    "in_.aadhaar": ("My Aadhaar number is {}.", "The form of {} is complete."),
    "cn.ric": ("我的身份证号是{}。", "申请人{}已登记。"),
    "kr.rrn": ("주민등록번호는 {}입니다.", "신청서 {} 접수."),
    "tr.tckimlik": ("T.C. kimlik numaram {}.", "Başvuru {} alındı."),
}


def id_of(country: str, rng: random.Random) -> str:
    """A valid id, made by drawing its free digits and looking for check digits that its rules take."""
    rules = import_module(f"stdnum.{country}")
    date = f"{rng.randint(50, 99)}{rng.randint(1, 12):02}{rng.randint(1, 28):02}"
    letters = "".join(rng.choices("BCDFGHLMNPRST", k=6))
    make: dict[str, Callable[[], str]] = {
        "us.ssn": lambda: f"{rng.randint(1, 665):03}-{rng.randint(1, 99):02}-{rng.randint(1, 9999):04}",
        "gb.nhs": lambda: f"{_n(rng, 3)} {_n(rng, 3)} {_n(rng, 4)}",
        "ca.sin": lambda: f"{rng.randint(1, 7)}{_n(rng, 2)} {_n(rng, 3)} {_n(rng, 3)}",
        "es.dni": lambda: f"{_n(rng, 8)}{rng.choice('TRWAGMYFPDXBNJZSQVHLCKE')}",
        "it.codicefiscale": lambda: f"{letters}{rng.randint(50, 99)}{rng.choice('ABCDEHLMPRST')}{rng.randint(1, 28):02}H501{rng.choice(string.ascii_uppercase)}",
        "fr.nir": lambda: f"{rng.choice('12')} {date[:2]} {date[2:4]} {rng.randint(1, 95):02} {_n(rng, 3)} {_n(rng, 3)} {_n(rng, 2)}",
        "de.idnr": lambda: f"{_n(rng, 11)}",
        "nl.bsn": lambda: _n(rng, 9),
        "be.nn": lambda: f"{date[:2]}.{date[2:4]}.{date[4:]}-{_n(rng, 3)}.{_n(rng, 2)}",
        "pl.pesel": lambda: f"{date}{_n(rng, 5)}",
        "se.personnummer": lambda: f"{date}-{_n(rng, 4)}",
        "fi.hetu": lambda: f"{date[4:]}{date[2:4]}{date[:2]}-{rng.randint(2, 899):03}{rng.choice('0123456789ABCDEFHJKLMNPRSTUVWXY')}",
        "br.cpf": lambda: f"{_n(rng, 3)}.{_n(rng, 3)}.{_n(rng, 3)}-{_n(rng, 2)}",
        "mx.curp": lambda: f"{rng.choice('BCDFG')}{rng.choice('AEIO')}{rng.choice('LMNP')}{rng.choice('RST')}{date}{rng.choice('HM')}DF{rng.choice('BCDF')}{rng.choice('LMNP')}{rng.choice('RSTV')}0{rng.randint(0, 9)}",
        "in_.aadhaar": lambda: f"{rng.randint(2, 9)}{_n(rng, 3)} {_n(rng, 4)} {_n(rng, 4)}",
        "cn.ric": lambda: f"{rng.choice(('110101', '310101', '440106'))}19{date}{_n(rng, 3)}{rng.choice('0123456789X')}",
        "kr.rrn": lambda: f"{date}-{rng.choice('12')}{_n(rng, 6)}",
        "tr.tckimlik": lambda: f"{rng.randint(1, 9)}{_n(rng, 10)}",
    }  # fmt: skip
    while True:
        if rules.is_valid(found := make[country]()):
            return found


def phone_of(region: str, rng: random.Random) -> phonenumbers.PhoneNumber:
    """A valid number of a region, fixed line or mobile, none of those that the plans print as examples."""
    kind = rng.choice((phonenumbers.PhoneNumberType.MOBILE, phonenumbers.PhoneNumberType.FIXED_LINE))
    example = phonenumbers.example_number_for_type(region, kind)
    assert example is not None, "each of these regions has one"
    start = phonenumbers.national_significant_number(example)
    while True:
        tail = rng.randint(5, 6)
        number = phonenumbers.parse(f"{start[:-tail]}{_n(rng, tail)}", region)
        shown = phonenumbers.national_significant_number(number)
        if phonenumbers.is_valid_number_for_region(number, region) and shown != start:
            return number


def card_of(rng: random.Random) -> str:
    """A number that passes its check digit, of a brand's range, written in one of three ways."""
    brand, size, parts = rng.choice(
        (("4", 16, (4, 4, 4, 4)), (f"5{rng.randint(1, 5)}", 16, (4, 4, 4, 4)), ("37", 15, (4, 6, 5)))
    )
    body = brand + _n(rng, size - 1 - len(brand))
    number, at, groups = body + luhn.calc_check_digit(body), 0, []
    for part in parts:
        groups.append(number[at : at + part])
        at += part
    return rng.choice((number, " ".join(groups), "-".join(groups)))


def iban_of(rng: random.Random) -> str:
    """Of one of six countries, in groups of four or at one stretch."""
    country, body = rng.choice((
        ("DE", lambda: _n(rng, 18)), ("AT", lambda: _n(rng, 16)), ("NL", lambda: f"ABNA{_n(rng, 10)}"), ("GB", lambda: f"NWBK{_n(rng, 14)}"),
        ("PL", lambda: _n(rng, 24)), ("CH", lambda: _n(rng, 17)),
    ))  # fmt: skip
    while True:
        rest = body()
        number = f"{country}{iban_rules.calc_check_digits(f'{country}00{rest}')}{rest}"
        if iban_rules.is_valid(number):
            return number if rng.random() < 0.4 else " ".join(number[i : i + 4] for i in range(0, len(number), 4))


def secrets_of(rng: random.Random) -> dict[str, tuple[str, str, str]]:
    """`form -> (kind, text, value)`: keys by their published shapes, and passwords as people write them."""
    key = f"-----BEGIN RSA PRIVATE KEY-----\n{_b64(rng, 48)}\n{_b64(rng, 48)}\n-----END RSA PRIVATE KEY-----"
    jwt = f"eyJhbGciOiJIUzI1NiJ9.{base64.urlsafe_b64encode(f'{{{chr(34)}sub{chr(34)}:{chr(34)}{_n(rng, 9)}{chr(34)}}}'.encode()).decode().rstrip('=')}.{_a(rng, 43)}"
    word = rng.choice(("Sommer", "tiger", "Madrid", "hello"))
    password = f"{word}{_n(rng, 3)}{rng.choice('!#%&?')}"
    plain = {
        "AWS": f"AKIA{_up(rng, 16)}", "GitHub": f"ghp_{_a(rng, 36)}", "GitHub, fine-grained": f"github_pat_{_a(rng, 22)}_{_a(rng, 59)}",
        "GitLab": f"glpat-{_a(rng, 20)}", "OpenAI, project": f"sk-proj-{_a(rng, 48)}", "OpenAI, older": f"sk-{_a(rng, 20)}T3BlbkFJ{_a(rng, 20)}",
        "Anthropic": f"sk-ant-api03-{_a(rng, 60)}", "Hugging Face": f"hf_{_a(rng, 34)}", "Google": f"AIza{_a(rng, 35)}",
        "Slack": f"xoxb-{_n(rng, 12)}-{_n(rng, 12)}-{_a(rng, 24).lower()}", "Stripe": f"sk_live_{_a(rng, 24)}",
        "SendGrid": f"SG.{_a(rng, 22)}.{_a(rng, 43)}", "Telegram": f"{rng.randint(10**9, 10**10 - 1)}:{_a(rng, 35)}",
        "PyPI": f"pypi-AgEIcHlwaS5vcmc{_a(rng, 80)}", "JWT": jwt, "private key": key,
    }  # fmt: skip
    frames = ("Use {} for it.", 'KEY = "{}"', "curl -H 'X-Key: {}' https://api.shop.io/v1", "{}\nis the key.")
    found = {
        form: ("secret", rng.choice(frames[:2] if "\n" in v else frames).format(v), v) for form, v in plain.items()
    }
    found |= {
        "password, English": ("password", f"My password is {password}, do not tell.", password),
        "password, German": ("password", f"Das Passwort lautet {password} und gilt heute.", password),
        "password, Spanish": ("password", f"La contraseña: {password}", password),
        "password, French": ("password", f"Le mot de passe est {password}", password),
        "password, Russian": ("password", f"Пароль: {password}", password),
        "password, Chinese": ("password", f"密码是{password}，请保密。", password),
        "password, code": ("password", f'db = connect(user="app", password="{password}")', password),
        "password, settings": ("password", f"DB_HOST=localhost\nDB_PASSWORD={password}\nDB_NAME=shop", password),
        "password, JSON": ("password", f'{{"user": "app", "password": "{password}"}}', password),
        "password, address": ("password", f"postgres://app:{password.replace('#', '.').replace('?', '_')}@db.shop.io:5432/main", password.replace("#", ".").replace("?", "_")),
    }  # fmt: skip
    return found


def hard_negatives(rng: random.Random) -> dict[str, str]:
    """`form -> text` with nothing private in it."""
    digits16 = next(n for _ in iter(int, 1) if not luhn.is_valid(n := f"4{_n(rng, 15)}"))
    wrong = iban_of(rng).replace(" ", "")
    wrong = (
        f"{wrong[:4]}{(int(wrong[4:][-1]) + 1) % 10}{wrong[5:]}" if wrong[4].isdigit() else f"{wrong[:2]}00{wrong[4:]}"
    )
    while iban_rules.is_valid(wrong):
        wrong = wrong[:-1] + str((int(wrong[-1]) + 1) % 10)
    day = f"{rng.randint(1990, 2030)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
    image = base64.b64encode(rng.randbytes(rng.choice((90, 600)))).decode()
    hexes = rng.randbytes(20).hex()
    return {
        "date, ISO": f"It happened on {day} at {rng.randint(10, 23)}:{rng.randint(10, 59)}:{rng.randint(10, 59)}.",
        "date, European": f"Am {rng.randint(10, 28)}.{rng.randint(10, 12)}.{rng.randint(1950, 2030)} und am {rng.randint(1, 9):02}/{rng.randint(1, 9):02}/{rng.randint(1990, 2030)}.",
        "date and time, compact": f"Saved as backup_{day.replace('-', '')}{_n(rng, 2)}3015.tar.gz and {day.replace('-', '')}T101500Z.",
        "span of years": f"The war of {rng.randint(1500, 1900)}-{rng.randint(1901, 2000)}, pages {rng.randint(100, 400)}-{rng.randint(401, 900)}.",
        "version": f"Upgrade to version {rng.randint(1, 9)}.{rng.randint(0, 20)}.{rng.randint(0, 20)}.{rng.randint(0, 9)} of the package.",
        "version, browser": f"Mozilla/5.0 Chrome/{rng.randint(90, 130)}.0.{rng.randint(4000, 6999)}.{rng.randint(10, 200)} Safari/537.36",
        "version, with v": f"v{rng.randint(1, 9)}.{rng.randint(0, 20)}.{rng.randint(0, 20)}.{rng.randint(0, 99)} is out; lodash@4.17.{rng.randint(10, 30)} too.",
        "hash, sha1": f"The commit {hexes} broke it.", "hash, sha256": f"sha256:{rng.randbytes(32).hex()}", "hash, md5": f'etag = "{rng.randbytes(16).hex()}"',
        "UUID": f"Request {uuid.UUID(int=rng.getrandbits(128), version=4)} failed.",
        "order number": f"Order no. {_n(rng, 3)}-{_n(rng, 7)}-{_n(rng, 7)} ships today.", "order number, long": f"Bestellnummer {rng.randint(10**11, 10**12 - 1)} ist unterwegs.",
        "tracking number": f"Tracking: 1Z{_up(rng, 6)}{_n(rng, 10)} arrives soon.", "invoice": f"Invoice INV-{rng.randint(2000, 2030)}-{_n(rng, 6)} is due.",
        "ISBN": f"ISBN 978-3-16-{_n(rng, 6)}-0 is out of print.", "EAN": f"The bar code 40{_n(rng, 11)} was not read.",
        "card-like, fails Luhn": f"The number {digits16} was printed below.", "card-like, groups": f"Code {digits16[:4]} {digits16[4:8]} {digits16[8:12]} {digits16[12:]} on the box.",
        "IBAN-like, wrong digits": f"Pay to {wrong} if you can.", "test card": "Pay with 4242 4242 4242 4242 or 4111111111111111 in the sandbox.",
        "price": f"It costs ${rng.randint(1, 9)},{_n(rng, 3)},{_n(rng, 3)}.99, or {rng.randint(1, 9)}.{_n(rng, 3)}.{_n(rng, 3)},00 EUR; {_n(rng, 3)} 000 000 Kč.",
        "large number": f"{rng.randint(1, 9)}{_n(rng, 9)} people, {rng.randint(10**8, 10**9):,} cells, 1e{rng.randint(10, 99)} atoms.",
        "timestamp": f"ts={rng.randint(1_600_000_000, 1_800_000_000)} and {rng.randint(1_600_000_000_000, 1_800_000_000_000)} ms.",
        "coordinates": f"At {rng.uniform(-60, 60):.6f}, {rng.uniform(-60, 60):.6f} on the map.", "number pi": f"3.14159265358979{_n(rng, 10)} and 2.718281828459045",
        "sum": f"{rng.randint(1000, 9999)} + {rng.randint(1000, 9999)} * {rng.randint(10, 99)} = {rng.randint(10**5, 10**6)}; 12-34-56-78",
        "digits of code": f"data = [{', '.join(_n(rng, 3) for _ in range(8))}]; x = 0x{rng.randbytes(8).hex()}", "matrix": "1 0 0 0\n0 1 0 0\n0 0 1 0\n" + " ".join(_n(rng, 2) for _ in range(12)),
        "example.com": "Write to alice@example.com or bob@test.example, see https://example.org.", "localhost": "It listens on 127.0.0.1:8080, 0.0.0.0 and localhost; the router is 192.168.1.1.",
        "documentation IP": f"Say the server is 203.0.113.{rng.randint(1, 254)} or 2001:db8::{rng.randint(1, 999)}.", "decorator": "@pytest.mark.real\n@app.route('/x')\ndef f(): ...\nnpm i @types/node@20.1",
        "image name": f"Look at icon@2x.png and hero@{rng.randint(2, 4)}x.jpg.", "git remote": "git clone git@github.com:me/tool.git", "scope": "std::vector<int> a; Foo::bar(); fe::cafe::run(); 10:20:30",
        "base64 image": f"![x](data:image/png;base64,{image})", "password, form": "The password must have at least 8 characters and one digit.", "password, rule": "password: a string that is never stored in plain text",
        "password, code": "password = os.environ['DB_PASSWORD']\ntoken = tokenizer.encode(text)\nsecret_key=get_secret('k1')", "password, placeholder": "password: <your_password_1>, api_key=YOUR_API_KEY_123, pw: ********, token: ${TOKEN_1}",
        "AWS, documentation": "aws_access_key_id = AKIAIOSFODNN7EXAMPLE", "key, header alone": "The file begins with -----BEGIN PRIVATE KEY----- and then base64.", "phone, fiction": "Call 555-0123 or +1 202-555-0143, or 07700 900123 in London.",
        "phone, extension": "Room 4021, extension 3312, floor 12, seats 12 34 56.", "score": f"They won {rng.randint(1, 5)}-{rng.randint(0, 5)} ({rng.randint(2, 5)}-1, 0-0), 21-19 21-17.",
        "slug": f"/item/{_n(rng, 10)}-red-shoes?ref={_n(rng, 9)}&q=+{_n(rng, 4)}", "constant name": "APPENDIX APACHELICENSE ACCESSCONTROLALLOWORIGINHEADERVALUE SKIPVALIDATION",
        "temperature": "From -12 to +25 degrees, +3.5 on average; +1000 points.", "bearer": "The Bearer of this letter, and Bearer tokens as such; Authorization: Bearer <token>", "twitter": "Follow @jack and @pytorch, cc @me", "chess": "1. e4 e5 2. Nf3 Nc6 3. Bb5 a6 4. Ba4 Nf6 1-0 1/2-1/2",
    }  # fmt: skip


def cases(seed: int, each: int = 3) -> list[Case]:
    """The set of one seed: `each` values of every form, with and without a word before it that tells what it is."""
    rng = random.Random(seed)
    found: list[Case] = []
    for _ in range(each):
        for region in PHONE_REGIONS:
            for told, sentence in zip(("told", "untold"), PHONE_WORDS[region], strict=True):
                number = phone_of(region, rng)
                ways = (
                    ("international", phonenumbers.PhoneNumberFormat.INTERNATIONAL),
                    ("national", phonenumbers.PhoneNumberFormat.NATIONAL),
                )
                for way, written in ways:
                    value = phonenumbers.format_number(number, written)
                    found.append(Case("phone", f"{way}, {told}", sentence.format(value), value))
        for country, sentences in ID_WORDS.items():
            for told, sentence in zip(("told", "untold"), sentences, strict=True):
                value = id_of(country, rng)
                found.append(Case("id", f"{country}, {told}", sentence.format(value), value))
        for _ in range(6):
            value = card_of(rng)
            found.append(
                Case(
                    "card",
                    "number",
                    rng.choice(("My card {} expires soon.", "Charge {} today.", "Karte: {}")).format(value),
                    value,
                )
            )
            value = iban_of(rng)
            found.append(
                Case(
                    "iban",
                    "number",
                    rng.choice(("IBAN: {}", "Überweise auf {} bitte.", "Send it to {}, BIC COBADEFF.")).format(value),
                    value,
                )
            )
            name, host = (
                _a(rng, 6).lower(),
                rng.choice(("gmail.com", "firma.de", "uni-köln.de", "mail.co.uk", "correo.es", "почта.рф", "qq.com")),
            )
            value = f"{rng.choice((name, f'{name}.müller', f'{name}+news', f'{name}_99', f'анна.{name}'))}@{host}"
            found.append(
                Case(
                    "email",
                    "address",
                    rng.choice(
                        ("Write to {}.", "<{}>", "邮箱是{}，谢谢", "mailto:{}", "Ann ({}) said so", '"{}",x')
                    ).format(value),
                    value,
                )
            )
            value = rng.choice(
                (
                    f"{rng.choice((84, 93, 151, 217))}.{rng.randint(1, 250)}.{rng.randint(1, 250)}.{rng.randint(1, 250)}",
                    f"2a02:8{rng.randint(100, 999)}:{rng.randint(1, 9999)}::{rng.randint(1, 9999)}",
                )
            )
            found.append(
                Case(
                    "ip",
                    "address",
                    rng.choice(("Login from {} at noon.", "{} - - GET /", "host={}")).format(value),
                    value,
                )
            )
            value = rng.choice((":", "-")).join(f"{b:02x}" for b in (0x3C, *rng.randbytes(5)))
            found.append(Case("mac", "address", rng.choice(("The laptop has {}.", "hwaddr {}")).format(value), value))
        for form, (kind, text, value) in secrets_of(rng).items():
            found.append(Case(kind, form, text, value))
        found += [Case(None, form, text) for _ in range(3) for form, text in hard_negatives(rng).items()]
    return found


def _n(rng: random.Random, count: int) -> str:
    return "".join(rng.choices(string.digits, k=count))


def _a(rng: random.Random, count: int) -> str:
    return "".join(rng.choices(string.ascii_letters + string.digits, k=count))


def _up(rng: random.Random, count: int) -> str:
    return "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", k=count))


def _b64(rng: random.Random, count: int) -> str:
    return base64.b64encode(rng.randbytes(count)).decode()
