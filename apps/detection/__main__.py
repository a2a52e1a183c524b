from apps.detection import main

if __name__ == "__main__":
    main()
